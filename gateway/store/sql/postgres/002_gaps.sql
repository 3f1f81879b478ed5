-- What was dropped of an entity: the part not yet announced to the cloud (count 0: nothing), and all of it so far.
CREATE TABLE cloud_event_gap (
    entity_type text NOT NULL, entity_id uuid NOT NULL, from_ts bigint, to_ts bigint, count bigint NOT NULL,
    total bigint NOT NULL,
    PRIMARY KEY (entity_type, entity_id)
);
