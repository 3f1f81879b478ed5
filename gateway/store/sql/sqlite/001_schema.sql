-- State and queue of one gateway. Ids are 16-byte blobs; the views show them as text.
-- kind of a value: 0 boolean, 1 integer, 2 double, 3 text, 4 JSON text.

CREATE TABLE device (
    id BLOB PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL, profile_id BLOB, label TEXT,
    created_time INTEGER NOT NULL, local_name TEXT, is_gateway INTEGER NOT NULL, origin TEXT NOT NULL,
    credentials_type TEXT, credentials_id TEXT, credentials_value TEXT, json TEXT
) WITHOUT ROWID;

CREATE TABLE profile (
    id BLOB PRIMARY KEY, name TEXT NOT NULL, origin TEXT NOT NULL, is_default INTEGER NOT NULL,
    default_rule_chain_id BLOB, json TEXT
) WITHOUT ROWID;

CREATE TABLE attribute (
    entity_type TEXT NOT NULL, entity_id BLOB NOT NULL, scope TEXT NOT NULL, key TEXT NOT NULL,
    ts INTEGER NOT NULL, kind INTEGER NOT NULL, value NOT NULL,
    PRIMARY KEY (entity_type, entity_id, scope, key)
) WITHOUT ROWID;

CREATE TABLE entity (type TEXT NOT NULL, key TEXT NOT NULL, json TEXT NOT NULL, PRIMARY KEY (type, key)) WITHOUT ROWID;

CREATE TABLE setting (name TEXT PRIMARY KEY, json TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE rpc (
    request_uuid BLOB PRIMARY KEY, device_id BLOB NOT NULL, state TEXT NOT NULL, expires_time INTEGER NOT NULL,
    request TEXT NOT NULL
) WITHOUT ROWID;

-- One small number for each (entity, key). Numbers are never given twice: `sequence` remembers the highest.
CREATE TABLE ts_kv_dictionary (
    series_id INTEGER PRIMARY KEY, entity_type TEXT NOT NULL, entity_id BLOB NOT NULL, key TEXT NOT NULL
);
CREATE INDEX ts_kv_dictionary_entity ON ts_kv_dictionary (entity_type, entity_id);
CREATE TABLE sequence (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;

CREATE TABLE ts_kv_latest (
    series_id INTEGER PRIMARY KEY, ts INTEGER NOT NULL, kind INTEGER NOT NULL, value NOT NULL
);

-- History in slots of one minute: what arrives together lies together, so a commit touches few pages, and old
-- slots are deleted as one range.
CREATE TABLE ts_kv (
    slot INTEGER NOT NULL, series_id INTEGER NOT NULL, ts INTEGER NOT NULL, kind INTEGER NOT NULL, value NOT NULL,
    PRIMARY KEY (slot, series_id, ts)
) WITHOUT ROWID;

CREATE TABLE cloud_event (
    lane INTEGER NOT NULL, seq_id INTEGER NOT NULL, id BLOB NOT NULL, created_time INTEGER NOT NULL,
    tenant_id BLOB, edge_id BLOB, cloud_event_type TEXT NOT NULL, entity_id BLOB, cloud_event_action TEXT NOT NULL,
    entity_body TEXT,
    entity_type TEXT AS (CASE WHEN entity_id IS NULL THEN NULL ELSE cloud_event_type END) VIRTUAL,
    ts INTEGER AS (created_time) VIRTUAL,
    PRIMARY KEY (lane, seq_id)
) WITHOUT ROWID;

CREATE TABLE cloud_event_cursor (lane INTEGER PRIMARY KEY, seq_id INTEGER NOT NULL);

CREATE TABLE cloud_event_parked (
    lane INTEGER NOT NULL, seq_id INTEGER NOT NULL, id BLOB NOT NULL, created_time INTEGER NOT NULL,
    cloud_event_type TEXT NOT NULL, entity_id BLOB, cloud_event_action TEXT NOT NULL, entity_body TEXT,
    reason TEXT NOT NULL, tries INTEGER NOT NULL, parked_time INTEGER NOT NULL,
    PRIMARY KEY (lane, seq_id)
) WITHOUT ROWID;

CREATE VIEW cloud_event_status AS
SELECT CASE e.lane WHEN 0 THEN 'MAIN' ELSE 'EXPRESS' END AS lane, e.seq_id, lower(hex(e.id)) AS id, e.created_time,
       lower(hex(e.tenant_id)) AS tenant_id, lower(hex(e.edge_id)) AS edge_id, e.cloud_event_type, e.entity_type,
       lower(hex(e.entity_id)) AS entity_id, e.cloud_event_action, e.entity_body, e.ts,
       CASE WHEN p.seq_id IS NOT NULL THEN 'PARKED'
            WHEN e.seq_id <= coalesce(c.seq_id, 0) THEN 'DEPLOYED'
            ELSE 'PENDING' END AS status
FROM cloud_event e
LEFT JOIN cloud_event_cursor c ON c.lane = e.lane
LEFT JOIN cloud_event_parked p ON p.lane = e.lane AND p.seq_id = e.seq_id;

CREATE VIEW telemetry_latest AS
SELECT d.entity_type, lower(hex(d.entity_id)) AS entity_id, d.key, l.ts, l.value
FROM ts_kv_latest l JOIN ts_kv_dictionary d USING (series_id);

CREATE VIEW telemetry_history AS
SELECT d.entity_type, lower(hex(d.entity_id)) AS entity_id, d.key, h.ts, h.value
FROM ts_kv h JOIN ts_kv_dictionary d USING (series_id);
