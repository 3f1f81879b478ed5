"""How a device gets in by itself, or gets an owner: provisioning, certificates, claims, as asked for and answered.

Source: ThingsBoard 4.3 device API: provisioning, claiming, X.509 credentials.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import orjson

from gateway.domain.entity import Credentials, CredentialsType, Json
from gateway.domain.payloads import PayloadError, parse_object

PROVISION_USER: Final = "provision"
"""User name or client id of a connection that asks to be provisioned."""


class ProvisionStatus(StrEnum):
    """How a request ended."""

    SUCCESS = "SUCCESS"
    NOT_FOUND = "NOT_FOUND"  #: no such key, or a wrong secret; the two are not told apart
    FAILURE = "FAILURE"


class ProvisionType(StrEnum):
    """What a profile allows, `provisionType` of its JSON."""

    DISABLED = "DISABLED"
    ALLOW_CREATE_NEW_DEVICES = "ALLOW_CREATE_NEW_DEVICES"
    CHECK_PRE_PROVISIONED_DEVICES = "CHECK_PRE_PROVISIONED_DEVICES"
    X509_CERTIFICATE_CHAIN = "X509_CERTIFICATE_CHAIN"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvisionRequest:
    """What a device sent. `device_name` None: one is made; "" (blanks were sent): refused.

    `certificate` is the text of one, in whatever form; which of the members count is up to `credentials_type`.
    """

    key: str
    secret: str = field(repr=False)
    device_name: str | None = None
    credentials_type: str = CredentialsType.ACCESS_TOKEN.value
    token: str = field(default="", repr=False)
    client_id: str = ""
    user_name: str = ""
    password: str = field(default="", repr=False)
    certificate: str = field(default="", repr=False)
    is_gateway: bool = False


@dataclass(frozen=True, slots=True)
class ProvisionAnswer:
    """`credentials` are those of the device; None unless it is a success."""

    status: ProvisionStatus
    credentials: Credentials | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateChain:
    """What a device showed, verified link by link, leaf first: `lines` are Base64 of the DER, each without a break."""

    lines: tuple[str, ...] = field(repr=False)
    common_name: str

    @property
    def leaf_hash(self) -> str:
        """The credentials id of the device that owns the leaf."""
        return certificate_hash(self.lines[0])


class ClaimStatus(StrEnum):
    """What a person who claims a device is told."""

    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"  #: wrong key, expired, or nothing to claim
    CLAIMED = "CLAIMED"  #: somebody has it already


def parse_provision(payload: bytes) -> ProvisionRequest:
    """A request of a device.

    Raises:
        PayloadError: No object, key or secret are missing, a member of a wrong kind. The text holds no value.
    """
    tree = parse_object(payload, "a provision request")
    name = _text(tree, "deviceName")
    kind = _text(tree, "credentialsType") or CredentialsType.ACCESS_TOKEN.value
    if kind not in tuple(CredentialsType):
        raise PayloadError(f'"credentialsType" must be one of {", ".join(CredentialsType)}')
    is_gateway = tree.get("gateway")
    if not isinstance(is_gateway, bool | None):
        raise PayloadError('"gateway" must be true or false')
    for needed in ("provisionDeviceKey", "provisionDeviceSecret"):
        if tree.get(needed) is None:
            raise PayloadError(f'a provision request needs "{needed}"')
    return ProvisionRequest(
        key=_text(tree, "provisionDeviceKey"),
        secret=_text(tree, "provisionDeviceSecret"),
        device_name=name.strip() if name else None,
        credentials_type=kind,
        token=_text(tree, "token"),
        client_id=_text(tree, "clientId"),
        user_name=_text(tree, "username"),
        password=_text(tree, "password"),
        certificate=_text(tree, "hash"),
        is_gateway=bool(is_gateway),
    )


def provision_json(answer: ProvisionAnswer) -> bytes:
    """What the device gets."""
    held = answer.credentials
    if answer.status is ProvisionStatus.NOT_FOUND:
        return orjson.dumps({"errorMsg": "Provision data was not found!", "status": answer.status.value})
    if answer.status is ProvisionStatus.FAILURE or held is None:
        return orjson.dumps({"errorMsg": "Failed to provision device!", "status": ProvisionStatus.FAILURE.value})
    value: Json = held.value
    if held.type == CredentialsType.ACCESS_TOKEN:
        value = held.credentials_id
    elif held.type == CredentialsType.MQTT_BASIC:
        value = orjson.loads(held.value or "{}")
    return orjson.dumps({"credentialsValue": value, "credentialsType": held.type, "status": answer.status.value})


def parse_claim(payload: bytes) -> tuple[str, int]:
    """Secret key and duration in milliseconds of a device's claim; nothing sent: "" and 0 (the default one).

    Raises:
        PayloadError: No object, or a member of a wrong kind.
    """
    if not payload.strip():
        return "", 0
    tree = parse_object(payload, "a claim")
    duration = tree.get("durationMs")
    if isinstance(duration, str):
        try:
            duration = int(duration)
        except ValueError:
            raise PayloadError('"durationMs" must be a number of milliseconds') from None
    if not isinstance(duration, int | float | None) or isinstance(duration, bool):
        raise PayloadError('"durationMs" must be a number of milliseconds')
    return _text(tree, "secretKey"), int(duration or 0)


def certificate_line(text: str) -> str:
    """A certificate's text as credentials keep it: no BEGIN and END lines, no line breaks."""
    return re.sub(r"-----[A-Z ]+-----|\s", "", text)


def certificate_line_of(der: bytes) -> str:
    """The same, of its bytes."""
    return base64.b64encode(der).decode()


def certificate_hash(line: str) -> str:
    """The credentials id of a certificate: SHA3-256 of its line, in hex."""
    return hashlib.sha3_256(line.encode()).hexdigest()


def _text(tree: Mapping[str, Json], name: str) -> str:
    value = tree.get(name)
    if value is None:
        return ""
    if isinstance(value, bool | int | float):
        return orjson.dumps(value).decode()
    if not isinstance(value, str):
        raise PayloadError(f'"{name}" must be a text')
    return value
