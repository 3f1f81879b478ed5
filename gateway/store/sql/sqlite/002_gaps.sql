-- What was dropped of an entity: the part not yet announced to the cloud (count 0: nothing), and all of it so far.
CREATE TABLE cloud_event_gap (
    entity_type TEXT NOT NULL, entity_id BLOB NOT NULL, from_ts INTEGER, to_ts INTEGER, count INTEGER NOT NULL,
    total INTEGER NOT NULL,
    PRIMARY KEY (entity_type, entity_id)
) WITHOUT ROWID;
