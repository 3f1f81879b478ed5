-- What local publish/subscribe keeps: retained messages, sessions, their queued messages, wills of open sessions.
CREATE TABLE local_item (kind TEXT NOT NULL, key TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (kind, key)) WITHOUT ROWID;
