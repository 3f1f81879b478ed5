-- Which entities the cloud still has to be told of is found without reading the telemetry between them.
CREATE INDEX cloud_event_added ON cloud_event (lane, seq_id) WHERE cloud_event_action = 'ADDED';
