"""Who is connecting: access token, or user name, password and client id.

Source: ThingsBoard 4.3 device API: basic lookup, and CONNACK codes by what was presented.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Final

import orjson

from gateway.domain.entity import Credentials, CredentialsType, Device, DeviceProfile

FindCredentials = Callable[[str], tuple[Credentials, Device] | None]

ACCEPTED: Final = (0, 0x00)
NOT_AUTHORIZED: Final = (5, 0x87)
UNAVAILABLE: Final = (3, 0x88)
BAD_CLIENT_ID: Final = (2, 0x85)
OVER_RATE: Final = (3, 0x9F)
"""CONNACK codes (3.x, 5.0)."""


def authenticate(find: FindCredentials, client_id: str, user_name: str | None, password: bytes | None) -> Device | None:
    """The device, or None. Secrets are compared in constant time and never leave this function."""
    if not user_name:
        found = find(_hash(client_id)) if client_id else None
        return _basic(found, client_id, user_name, password)
    found = find(_hash(f"{client_id}|{user_name}")) if client_id else None
    if found is not None and found[0].type == CredentialsType.MQTT_BASIC:
        device = _basic(found, client_id, user_name, password)
        if device is not None or _is_identity(found[0], client_id, user_name):
            return device  # the right user with a wrong password: no further look-up
    found = find(user_name)
    if found is None:
        return None
    if found[0].type == CredentialsType.ACCESS_TOKEN:
        return found[1] if _equal(found[0].credentials_id, user_name) else None
    return _basic(found, client_id, user_name, password)


def refusal(client_id: str, user_name: str | None, password: bytes | None) -> tuple[int, int]:
    """CONNACK code (3.x, 5.0) of a connection for which no device was found."""
    if user_name or password is not None:
        return 5, 0x86
    return (2, 0x85) if client_id.strip() else NOT_AUTHORIZED


def speaks_mqtt(profile: DeviceProfile | None) -> bool:
    """False for a device whose profile is bound to another transport."""
    transport = (profile.json or {}).get("transportType") if profile is not None else None
    return transport in (None, "DEFAULT", "MQTT")


def _basic(
    found: tuple[Credentials, Device] | None, client_id: str, user_name: str | None, password: bytes | None
) -> Device | None:
    """Every stored field must equal what was presented."""
    if found is None or found[0].type != CredentialsType.MQTT_BASIC:
        return None
    stored = _stored(found[0])
    if stored is None:
        return None
    is_same = _equal(stored.get("clientId") or "", client_id if stored.get("clientId") else "")
    is_same &= _equal(stored.get("userName") or "", (user_name or "") if stored.get("userName") else "")
    if stored.get("password"):
        is_same &= hmac.compare_digest(str(stored["password"]).encode(), password or b"")
    return found[1] if is_same else None


def _is_identity(credentials: Credentials, client_id: str, user_name: str) -> bool:
    stored = _stored(credentials) or {}
    return stored.get("clientId") == client_id and stored.get("userName") == user_name


def _stored(credentials: Credentials) -> dict[str, str] | None:
    try:
        tree = orjson.loads(credentials.value or "")
    except orjson.JSONDecodeError:
        return None
    if not isinstance(tree, dict) or not (tree.get("clientId") or tree.get("userName")):
        return None
    return {name: str(text) for name, text in tree.items() if text is not None}  # (a cloud may write a number)


def _hash(text: str) -> str:
    return hashlib.sha3_256(text.encode()).hexdigest()


def _equal(left: str, right: str) -> bool:
    return hmac.compare_digest(left.encode(), right.encode())
