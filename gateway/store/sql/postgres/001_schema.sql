-- State and queue of one gateway, in the schema on the search path.
-- kind of a value: 0 boolean, 1 integer (both in long_v), 2 double (dbl_v), 3 text, 4 JSON text (both in str_v).
-- Text cannot hold the character NUL here: it is written as U+E000 '0', and U+E000 itself as U+E000 '1'.

CREATE TABLE device (
    id uuid PRIMARY KEY, name text NOT NULL, type text NOT NULL, profile_id uuid, label text,
    created_time bigint NOT NULL, local_name text, is_gateway boolean NOT NULL, origin text NOT NULL,
    credentials_type text, credentials_id text, credentials_value text, json text
);

CREATE TABLE profile (
    id uuid PRIMARY KEY, name text NOT NULL, origin text NOT NULL, is_default boolean NOT NULL,
    default_rule_chain_id uuid, json text
);

CREATE TABLE attribute (
    entity_type text NOT NULL, entity_id uuid NOT NULL, scope text NOT NULL, key text NOT NULL,
    ts bigint NOT NULL, kind smallint NOT NULL, long_v bigint, dbl_v double precision, str_v text,
    PRIMARY KEY (entity_type, entity_id, scope, key)
);

CREATE TABLE entity (type text NOT NULL, key text NOT NULL, json text NOT NULL, PRIMARY KEY (type, key));

CREATE TABLE setting (name text PRIMARY KEY, json text NOT NULL);

CREATE TABLE rpc (
    request_uuid uuid PRIMARY KEY, device_id uuid NOT NULL, state text NOT NULL, expires_time bigint NOT NULL,
    request text NOT NULL
);

-- One small number for each (entity, key). Numbers are never given twice: `sequence` remembers the highest.
CREATE TABLE ts_kv_dictionary (
    series_id bigint PRIMARY KEY, entity_type text NOT NULL, entity_id uuid NOT NULL, key text NOT NULL
);
CREATE INDEX ts_kv_dictionary_entity ON ts_kv_dictionary (entity_type, entity_id);
CREATE TABLE sequence (name text PRIMARY KEY, value bigint NOT NULL);

CREATE TABLE ts_kv_latest (
    series_id bigint PRIMARY KEY, ts bigint NOT NULL, kind smallint NOT NULL,
    long_v bigint, dbl_v double precision, str_v text
) WITH (fillfactor = 70);

-- History in slots of one minute: what arrives together lies together, and old slots are deleted as one range.
CREATE TABLE ts_kv (
    slot bigint NOT NULL, series_id bigint NOT NULL, ts bigint NOT NULL, kind smallint NOT NULL,
    long_v bigint, dbl_v double precision, str_v text,
    PRIMARY KEY (slot, series_id, ts)
);

CREATE TABLE cloud_event (
    lane smallint NOT NULL, seq_id bigint NOT NULL, id uuid NOT NULL, created_time bigint NOT NULL,
    tenant_id uuid, edge_id uuid, cloud_event_type text NOT NULL, entity_id uuid, cloud_event_action text NOT NULL,
    entity_body text,
    entity_type text GENERATED ALWAYS AS (CASE WHEN entity_id IS NULL THEN NULL ELSE cloud_event_type END) STORED,
    ts bigint GENERATED ALWAYS AS (created_time) STORED,
    PRIMARY KEY (lane, seq_id)
);

CREATE TABLE cloud_event_cursor (lane smallint PRIMARY KEY, seq_id bigint NOT NULL);

CREATE TABLE cloud_event_parked (
    lane smallint NOT NULL, seq_id bigint NOT NULL, id uuid NOT NULL, created_time bigint NOT NULL,
    cloud_event_type text NOT NULL, entity_id uuid, cloud_event_action text NOT NULL, entity_body text,
    reason text NOT NULL, tries integer NOT NULL, parked_time bigint NOT NULL,
    PRIMARY KEY (lane, seq_id)
);

CREATE VIEW cloud_event_status AS
SELECT CASE e.lane WHEN 0 THEN 'MAIN' ELSE 'EXPRESS' END AS lane, e.seq_id, e.id, e.created_time, e.tenant_id, e.edge_id,
       e.cloud_event_type, e.entity_type, e.entity_id, e.cloud_event_action, e.entity_body, e.ts,
       CASE WHEN p.seq_id IS NOT NULL THEN 'PARKED'
            WHEN e.seq_id <= coalesce(c.seq_id, 0) THEN 'DEPLOYED'
            ELSE 'PENDING' END AS status
FROM cloud_event e
LEFT JOIN cloud_event_cursor c ON c.lane = e.lane
LEFT JOIN cloud_event_parked p ON p.lane = e.lane AND p.seq_id = e.seq_id;

CREATE VIEW telemetry_latest AS
SELECT d.entity_type, d.entity_id, d.key, l.ts, coalesce(l.long_v::text, l.dbl_v::text, l.str_v) AS value
FROM ts_kv_latest l JOIN ts_kv_dictionary d USING (series_id);

CREATE VIEW telemetry_history AS
SELECT d.entity_type, d.entity_id, d.key, h.ts, coalesce(h.long_v::text, h.dbl_v::text, h.str_v) AS value
FROM ts_kv h JOIN ts_kv_dictionary d USING (series_id);
