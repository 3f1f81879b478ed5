"""Small values for the tests of this room."""

from pathlib import Path
from uuid import UUID

import orjson

from gateway.domain.cloud_event import Lane, StoredEvent
from gateway.domain.entity import Credentials, Device, DeviceProfile, EdgeIdentity

VECTORS = Path(__file__).resolve().parents[2] / "vectors" / "edge"
DEVICE_ID = UUID("0a1b2c30-4d5e-11ef-8a9b-0c1d2e3f4a5b")
SECOND_ID = UUID("0a1b2c30-4d5e-11ef-8a9b-0c1d2e3f4a5c")
TENANT_ID = UUID("5b6c7d80-4d5e-11ef-8a9b-0c1d2e3f4a5b")
PROFILE_ID = UUID("6c7d8e90-4d5e-11ef-8a9b-0c1d2e3f4a5b")
TS = 1_718_000_000_000
BOILER = DeviceProfile(id=PROFILE_ID, name="boiler")


def vector(name: str) -> bytes:
    return bytes.fromhex((VECTORS / f"{name}.hex").read_text(encoding="ascii"))


def event(action, body=None, *, type_="DEVICE", id_=DEVICE_ID, seq_id=1, lane=Lane.MAIN) -> StoredEvent:
    data = body if body is None or isinstance(body, bytes) else orjson.dumps(body)
    return StoredEvent(
        seq_id=seq_id, lane=lane, id=DEVICE_ID, type=type_, action=action, entity_id=id_, created_ms=TS, body=data
    )


def device(**changes) -> Device:
    values = {
        "id": DEVICE_ID,
        "name": "Boiler-7",
        "type": "boiler",
        "profile_id": PROFILE_ID,
        "label": "Cellar",
        "created_ms": TS,
        "is_gateway": True,
        "credentials": Credentials(type="ACCESS_TOKEN", credentials_id="kT9wqLm2"),
    }
    return Device(**{**values, **changes})


class State:
    """A `StateReader` of a few dictionaries."""

    def __init__(self, *devices, profiles=(BOILER,), is_known=True, entities=()) -> None:
        self.entities = dict(entities)  # (type, key) to JSON
        self.devices = {one.id: one for one in devices}
        self.profiles = {one.id: one for one in profiles}
        self.edge = EdgeIdentity(edge_id=SECOND_ID, tenant_id=TENANT_ID, name="e") if is_known else None

    def device(self, device_id):
        return self.devices.get(device_id)

    def profile(self, profile_id):
        return self.profiles.get(profile_id)

    def profile_named(self, name):
        return next((one for one in self.profiles.values() if one.name == name), None)

    def attribute(self, entity, scope, key):
        return None

    def identity(self):
        return self.edge

    def entity_json(self, type_, key):
        return self.entities.get((type_, key))

    def setting(self, name):
        return None
