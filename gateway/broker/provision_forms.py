"""A provision request in JSON or protobuf; the answer goes back in the form of the request.

Source: ThingsBoard 4.3 device API: provisioning: what is not JSON is read as protobuf; fixed messages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from gateway.broker import protobuf
from gateway.domain.entity import CredentialsType
from gateway.domain.onboarding import (
    ProvisionAnswer,
    ProvisionRequest,
    ProvisionStatus,
    parse_provision,
    provision_json,
)
from gateway.domain.payloads import PayloadError, parse_object

Writer = Callable[[ProvisionAnswer], bytes]

_MESSAGES: Final = """
message Secret { string key = 1; string secret = 2; }
message Token { string token = 1; }
message Certificate { string text = 1; }
message Basic { string client_id = 1; string user_name = 2; string password = 3; }
message Wish { Token token = 1; Certificate certificate = 2; Basic basic = 3; }
message Request { string device = 1; int32 kind = 2; Secret secret = 3; Wish wish = 4; bool is_gateway = 5; }
message Answer { int32 status = 1; int32 kind = 2; string value = 3; }
"""
_CLASSES: Final = protobuf.fixed_messages(_MESSAGES)
_KINDS: Final = (CredentialsType.ACCESS_TOKEN, CredentialsType.X509_CERTIFICATE, CredentialsType.MQTT_BASIC)
_STATUSES: Final = {ProvisionStatus.SUCCESS: 1, ProvisionStatus.NOT_FOUND: 2, ProvisionStatus.FAILURE: 3}


def read_request(payload: bytes) -> tuple[ProvisionRequest, Writer]:
    """A request, and how its answer is written.

    Raises:
        PayloadError: Neither form, or something needed is missing. The text holds no value.
    """
    try:
        return parse_provision(payload), provision_json
    except PayloadError as error:
        if not payload or _is_object(payload):
            raise
        try:
            message = protobuf.decode(_CLASSES["Request"], payload)
        except PayloadError:
            raise error from None
    return _request(message), answer_protobuf


def answer_protobuf(answer: ProvisionAnswer) -> bytes:
    """Basic credentials are JSON text, as they are kept."""
    message = _CLASSES["Answer"](status=_STATUSES[answer.status])
    held = answer.credentials
    if answer.status is ProvisionStatus.SUCCESS and held is not None:
        message.kind = _KINDS.index(CredentialsType(held.type))
        message.value = (held.credentials_id if message.kind == 0 else held.value) or ""
    elif answer.status is ProvisionStatus.SUCCESS:
        message.status = _STATUSES[ProvisionStatus.FAILURE]
    body: bytes = message.SerializeToString()
    return body


def _request(message: Any) -> ProvisionRequest:
    if not message.HasField("secret"):
        raise PayloadError("a provision request needs key and secret, the message in field 3")
    if not 0 <= message.kind < len(_KINDS):
        raise PayloadError("the credentials type must be 0 (access token), 1 (X.509) or 2 (MQTT basic)")
    wish = message.wish
    return ProvisionRequest(
        key=message.secret.key,
        secret=message.secret.secret,
        device_name=message.device.strip() if message.device else None,
        credentials_type=_KINDS[message.kind].value,
        token=wish.token.token,
        client_id=wish.basic.client_id,
        user_name=wish.basic.user_name,
        password=wish.basic.password,
        certificate=wish.certificate.text,
        is_gateway=message.is_gateway,
    )


def _is_object(payload: bytes) -> bool:
    try:
        parse_object(payload, "a provision request")
    except PayloadError:
        return False
    return True
