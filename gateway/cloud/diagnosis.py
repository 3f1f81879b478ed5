"""Which layer is broken, in words: a probe with plain sockets after an attempt to connect has failed.

gRPC says UNAVAILABLE for nearly everything. This walks the same way once more, one layer after the other: name,
TCP, proxy, TLS, HTTP/2, and stops at the first that does not work. Nothing secret is sent but the proxy's own
user and password, and nothing that a stranger answers is repeated in the text.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from gateway.cloud.tls import client_context, not_after_ms
from gateway.config import CloudConfig
from gateway.errors import GatewayError, RejectedError

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"  # and empty SETTINGS
_FRAME_HEAD: Final = 9
_SETTINGS: Final = 4
_TLS_RECORDS: Final = (b"\x15\x03", b"\x16\x03")  # alert, handshake: what a TLS server says to plain text
_REPLY_BYTES: Final = 16_384
_EDGE_PORT_HINT: Final = "an edge port of ThingsBoard is 7070 by default; 8080 is its page, 1883 its MQTT"

# What OpenSSL found, X509_V_ERR_*
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_NAME_MISMATCH: Final = (62, 64)

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True)
class Layer:
    """What one step found. A broken one is the last; its text begins with the layer and holds the remedy."""

    name: str
    text: str
    is_ok: bool = True


_LAYER: Final = re.compile(r"(?:^|: )(proxy|DNS|TCP|TLS|HTTP/2|gRPC|wrong service)\b")


def layer_of(error: str) -> str:
    """The layer that the text of a failed connection names; what names none failed in the conversation itself."""
    found = _LAYER.search(error)
    return found[1] if found else "edge protocol"


class Broken(Exception):
    """The layer that does not work."""


async def diagnose(config: CloudConfig, timeout_s: float = 3.0) -> str | None:
    """The first layer that does not work, with its remedy; None when all that can be probed works.

    Every step has `timeout_s`; it never raises but for cancellation.
    """
    last = (await layers(config, timeout_s))[-1]
    return None if last.is_ok else last.text


async def layers(config: CloudConfig, timeout_s: float = 3.0) -> list[Layer]:
    """All steps of the way up to the first that does not work; never empty, and as `diagnose` otherwise."""
    passed: list[Layer] = []
    try:
        async with _connected(config, timeout_s, passed) as (reader, writer):
            if config.ssl_enabled:
                await _handshake(config, writer, timeout_s)
                passed.append(Layer("TLS", _tls_words(writer)))
            await _expect_http2(config, reader, writer, timeout_s)
            passed.append(Layer("HTTP/2", "the server speaks it"))
    except Broken as broken:
        passed.append(_broken(str(broken)))
    except GatewayError as error:  # a certificate file
        passed.append(Layer("TLS", str(error), is_ok=False))
    except OSError as error:
        passed.append(_broken(f"TCP: {_words(error)}"))
    return passed


def _broken(text: str) -> Layer:
    name = "proxy" if text.startswith("proxy") else text.split(":", 1)[0]
    return Layer(name, text, is_ok=False)


def _tls_words(writer: asyncio.StreamWriter) -> str:
    session = writer.get_extra_info("ssl_object")
    return f"{session.version()}, the certificate is trusted" if session is not None else "on"


async def server_certificate(config: CloudConfig, timeout_s: float = 3.0) -> bytes | None:
    """The certificate (DER) that the server shows, trusted or not; None when it cannot be had."""
    with contextlib.suppress(Broken, OSError, GatewayError, TimeoutError):
        context = client_context(config, is_checked=False)
        async with _connected(config, timeout_s) as (_, writer), asyncio.timeout(timeout_s):
            await writer.start_tls(context, server_hostname=config.ssl_server_name or config.host)
            peer = writer.get_extra_info("ssl_object")
            der: bytes | None = peer.getpeercert(binary_form=True) if peer else None
            return der
    return None


# ── one layer after the other ────────────────────────────────────────────────────────────────


@contextlib.asynccontextmanager
async def _connected(
    config: CloudConfig, timeout_s: float, passed: list[Layer] | None = None
) -> AsyncIterator[Streams]:
    """A TCP connection to the server, through the proxy when there is one; closed at the end, without waiting.

    What works is added to `passed`.
    """
    passed = [] if passed is None else passed
    host, port, who = (
        (config.proxy_host, config.proxy_port, "proxy: ") if config.proxy_host else (config.host, config.port, "")
    )
    try:
        async with asyncio.timeout(timeout_s):
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
            addresses = ", ".join(dict.fromkeys(str(entry[4][0]) for entry in found[:4]))
            passed.append(Layer("DNS", f"{who}{host} is {addresses}"))
    except (OSError, UnicodeError):
        raise Broken(f"{who}DNS: the name {host!r} does not resolve; check the name and this machine's DNS") from None
    except TimeoutError:
        raise Broken(f"{who}DNS: no answer about the name {host!r}; check this machine's DNS") from None
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        raise Broken(f"{who}TCP: {host}:{port} does not answer; a firewall, or the wrong address") from None
    except OSError as error:
        raise Broken(f"{who}TCP: {_words(error)}") from None
    passed.append(Layer("TCP", f"{who}{host}:{port} accepts connections"))
    try:
        if config.proxy_host:
            await _through_proxy(config, reader, writer, timeout_s)
            passed.append(Layer("proxy", f"it lets us through to {config.host}:{config.port}"))
        yield reader, writer
    finally:
        writer.transport.abort()


async def _through_proxy(
    config: CloudConfig, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, timeout_s: float
) -> None:
    target = f"{config.host}:{config.port}"
    head = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"
    if config.proxy_user is not None:
        password = config.proxy_password.get_secret_value() if config.proxy_password else ""
        head += (
            f"Proxy-Authorization: Basic {base64.b64encode(f'{config.proxy_user}:{password}'.encode()).decode()}\r\n"
        )
    where = f"proxy {config.proxy_host}:{config.proxy_port}"
    try:
        async with asyncio.timeout(timeout_s):
            writer.write(head.encode() + b"\r\n")
            answer = await reader.readuntil(b"\r\n\r\n")
    except TimeoutError:
        raise Broken(f"{where}: no answer to CONNECT {target}") from None
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
        raise Broken(f"{where}: no HTTP proxy answers there") from None
    words = answer.split(b"\r\n", 1)[0].split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1") or not words[1].isdigit():
        raise Broken(f"{where}: no HTTP proxy answers there")
    code = int(words[1])
    if code == 407 and config.proxy_user is None:
        raise Broken(f"{where}: it asks for a user; set cloud.proxy_user and cloud.proxy_password (407)")
    if code == 407:
        raise Broken(f"{where}: it does not accept cloud.proxy_user and cloud.proxy_password (407)")
    if code in (502, 503, 504):
        raise Broken(f"{where}: it cannot reach {target} ({code})")
    if not 200 <= code < 300:
        raise Broken(f"{where}: it refuses a connection to {target} ({code}); allow CONNECT to this port")


async def _handshake(config: CloudConfig, writer: asyncio.StreamWriter, timeout_s: float) -> None:
    name = config.ssl_server_name or config.host
    try:
        async with asyncio.timeout(timeout_s):
            await writer.start_tls(client_context(config), server_hostname=name)
    except TimeoutError:
        raise Broken(
            "TLS: no answer to the handshake; the server speaks no TLS on this port? (cloud.ssl_enabled)"
        ) from None
    except ssl.SSLCertVerificationError as error:
        raise Broken(await _untrusted(config, error, name, timeout_s)) from None
    except ssl.SSLError as error:
        reason = (error.reason or "").upper()
        if "WRONG_VERSION" in reason or "UNKNOWN_PROTOCOL" in reason or "RECORD_LAYER" in reason:
            raise Broken(
                "TLS: the server speaks no TLS on this port; set cloud.ssl_enabled: false, or the TLS port"
            ) from (None)
        if "ALERT" in reason:
            raise Broken(f"TLS: the server refuses the handshake ({reason.replace('_', ' ').lower()})") from None
        raise Broken(f"TLS: the handshake failed ({reason.replace('_', ' ').lower() or 'no reason given'})") from None
    except OSError:
        raise Broken(
            "TLS: the server hung up in the handshake; it speaks no TLS on this port? (cloud.ssl_enabled)"
        ) from None


async def _untrusted(config: CloudConfig, error: ssl.SSLCertVerificationError, name: str, timeout_s: float) -> str:
    clock = f"this machine's clock says {datetime.now(UTC):%Y-%m-%d}"
    if error.verify_code == _EXPIRED:
        since = ""
        der = await server_certificate(config, timeout_s)
        with contextlib.suppress(RejectedError):
            since = f" on {datetime.fromtimestamp(not_after_ms(der or b'') / 1000, UTC):%Y-%m-%d}"
        return f"TLS: the server's certificate expired{since} ({clock})"
    if error.verify_code == _NOT_YET_VALID:
        return f"TLS: the server's certificate is not yet valid; {clock}: is that right?"
    if error.verify_code in _NAME_MISMATCH:
        return f"TLS: the certificate has another name than {name!r}; connect by its name, or set cloud.ssl_server_name"
    return (
        "TLS: the server's certificate is not trusted (unknown CA);"
        f" {'is cloud.ssl_cert its CA?' if config.ssl_cert else 'name its CA in cloud.ssl_cert'}"
    )


async def _expect_http2(
    config: CloudConfig, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, timeout_s: float
) -> None:
    """Send the preface of HTTP/2; its servers answer with a SETTINGS frame."""
    answer = b""
    try:
        async with asyncio.timeout(timeout_s):
            writer.write(PREFACE)
            while len(answer) < _FRAME_HEAD and (data := await reader.read(_REPLY_BYTES)):
                answer += data
    except TimeoutError:
        if not answer:
            raise Broken(f"HTTP/2: connected, but nobody answers; {_EDGE_PORT_HINT}") from None
    except OSError:  # ssl.SSLError is one
        pass
    if _is_settings(answer):
        return
    if answer.startswith(b"HTTP/1"):
        raise Broken(f"HTTP/2: a web server (HTTP/1) answers here; {_EDGE_PORT_HINT}")
    session = writer.get_extra_info("ssl_object")
    if session is not None and session.selected_alpn_protocol() == "h2" and not answer:
        # It wants HTTP/2 and hangs up: TLS 1.3 refuses a client only after the client's own handshake is done.
        wish = "it does not accept cloud.ssl_client_cert" if config.ssl_client_cert else "it asks for one"
        raise Broken(f"TLS: client certificate: the server hung up after the handshake; probably {wish}")
    if not config.ssl_enabled and (answer.startswith(_TLS_RECORDS) or await server_certificate(config, timeout_s)):
        raise Broken("TLS: the server speaks TLS; set cloud.ssl_enabled: true")
    if not answer:
        raise Broken(
            "HTTP/2: the connection is accepted and closed: nothing behind a load balancer, or no edge port;"
            f" {_EDGE_PORT_HINT}"
        )
    raise Broken(f"HTTP/2: something else than an edge port answers here; {_EDGE_PORT_HINT}")


def _is_settings(answer: bytes) -> bool:
    if len(answer) < _FRAME_HEAD:
        return False
    _, _, kind, _, stream = struct.unpack(">BHBBI", answer[:_FRAME_HEAD])
    return bool(kind == _SETTINGS and stream == 0)


def _words(error: OSError) -> str:
    match error.errno:
        case errno.ECONNREFUSED:
            return "connection refused; nobody listens there: host, port, is the server up?"
        case errno.ENETUNREACH | errno.EHOSTUNREACH:
            return "no route to the host; is this machine's network up?"
        case errno.ETIMEDOUT:
            return "timed out; a firewall, or the wrong address"
        case errno.ECONNRESET | errno.EPIPE:
            return "connection reset"
        case _:
            # Several addresses, several reasons: the text of asyncio lists them.
            if "Connect call failed" in str(error) or "refused" in str(error):
                return "connection refused; nobody listens there: host, port, is the server up?"
            return error.strerror or type(error).__name__
