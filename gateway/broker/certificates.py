"""Client certificates on the TLS listener: any is taken, who it belongs to is decided at CONNECT.

ThingsBoard's devices have self-signed certificates, and no list of authorities could name them all. So the last
certificate that a client shows is made the anchor of its own handshake: OpenSSL then checks that each certificate
is signed by the next and that the client has the leaf's key, and nothing else. Each handshake has a context of its
own for that, chosen where a server chooses one by name, so that what one client shows vouches for nobody else.

The standard library has no hook for it that is public: `_msg_callback` (3.8 and later) shows the Certificate message
before it is verified, and `get_verified_chain` is public from 3.13 on.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from gateway.domain.onboarding import CertificateChain, certificate_line_of

log = logging.getLogger(__name__)

_CERTIFICATE: Final = 11  # handshake message type (RFC 8446 §4.4.2, RFC 5246 §7.4.2)
_ANCHOR_NEED_NOT_BE_ROOT: Final = 0x80000  # X509_V_FLAG_PARTIAL_CHAIN
_DATES_ARE_READ_LATER: Final = 0x200000  # X509_V_FLAG_NO_CHECK_TIME
_DER: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Presented:
    """What a client has shown, and from when to when its leaf is good (UTC epoch, seconds).

    `chain` is None when not all of it could be verified.
    """

    chain: CertificateChain | None
    from_s: float
    until_s: float


def take_any_certificate(context: ssl.SSLContext, fresh: Callable[[], ssl.SSLContext]) -> None:
    """Ask clients of this listener for a certificate; they need not have one.

    `fresh` gives a context with the server's own certificate, anew at each handshake.
    """

    def new_context(sslobject: Any, server_name: str | None, base: ssl.SSLContext) -> None:
        try:
            own = fresh()
        except (OSError, ssl.SSLError) as error:  # it is being replaced: those without a certificate get in
            log.warning("broker.tls_cert cannot be read: %s", error)
            return
        own.verify_mode = ssl.CERT_OPTIONAL
        setattr(own, "_msg_callback", _anchor)  # noqa: B010
        sslobject.context = own

    context.verify_mode = ssl.CERT_OPTIONAL
    # These and the tickets are the connection's from its first context on.
    context.verify_flags = ssl.VerifyFlags(context.verify_flags | _ANCHOR_NEED_NOT_BE_ROOT | _DATES_ARE_READ_LATER)
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0  # a resumed session has no chain to look at
    context.sni_callback = new_context


def presented(transport: asyncio.BaseTransport) -> Presented | None:
    """What the peer has shown; None: nothing, or no TLS."""
    tls: Any = transport.get_extra_info("ssl_object")
    der = tls.getpeercert(binary_form=True) if tls is not None else None
    if der is None:
        return None
    leaf: dict[str, Any] = tls.getpeercert()
    names = [value for part in leaf.get("subject", ()) for key, value in part if key == "commonName"]
    lines = tuple(certificate_line_of(one) for one in _chain(tls, verified=True))
    shown = tuple(certificate_line_of(one) for one in _chain(tls, verified=False))
    # OpenSSL leaves out what it does not need; every one that is shown must count.
    is_whole = lines[: len(shown)] == shown and lines[:1] == (certificate_line_of(der),)
    return Presented(
        chain=CertificateChain(lines=lines, common_name=names[-1] if names else "") if is_whole else None,
        from_s=ssl.cert_time_to_seconds(leaf["notBefore"]),
        until_s=ssl.cert_time_to_seconds(leaf["notAfter"]),
    )


def _chain(tls: Any, *, verified: bool) -> list[bytes]:
    name = "get_verified_chain" if verified else "get_unverified_chain"
    certificates = getattr(tls, name, getattr(tls._sslobj, name))() or ()
    return [one if isinstance(one, bytes) else one.public_bytes(_DER) for one in certificates]


def _anchor(connection: Any, direction: str, version: Any, content: Any, message: Any, data: bytes) -> None:
    """A handshake message, before OpenSSL looks into it: what is no list of certificates it will refuse itself."""
    if direction != "read" or message != _CERTIFICATE:
        return
    last = _last_certificate(data, has_extensions=version == ssl.TLSVersion.TLSv1_3)
    if last:
        try:
            connection.context.load_verify_locations(cadata=last)
        except ssl.SSLError as error:
            log.debug("a client's certificate cannot be read: %s", error.reason)


def _last_certificate(message: bytes, *, has_extensions: bool) -> bytes:
    """DER of the last entry; b"" when there is none."""
    rest = message[4:]  # type and length
    if has_extensions:
        rest = rest[1 + rest[0] :] if rest else b""  # certificate_request_context
    rest = rest[3:]
    last = b""
    while len(rest) > 3:
        size = int.from_bytes(rest[:3], "big")
        last, rest = rest[3 : 3 + size], rest[3 + size :]
        if has_extensions:
            rest = rest[2 + int.from_bytes(rest[:2], "big") :]
    return last
