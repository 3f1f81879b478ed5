-- What local publish/subscribe keeps: retained messages, sessions, their queued messages, wills of open sessions.
CREATE TABLE local_item (kind text NOT NULL, key text NOT NULL, body bytea NOT NULL, PRIMARY KEY (kind, key));
