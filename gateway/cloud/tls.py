"""Certificates of the cloud link: the files that the configuration names, checked, and when they expire.

Only the standard library: it cannot read a certificate that it does not trust, so the end of validity is found
by a short walk through the DER (X.690; the fields are those of RFC 5280, section 4.1).
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from gateway.config import CloudConfig
from gateway.errors import RefusedError, RejectedError

WARN_DAYS: Final = 30
_DAY_MS: Final = 86_400_000
_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_INTEGER, _SEQUENCE, _SET, _UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x02, 0x30, 0x31, 0x17, 0x18, 0xA0
_COMMON_NAME: Final = b"\x55\x04\x03"  # 2.5.4.3


@dataclass(frozen=True, slots=True)
class Expiry:
    """When a certificate, known by the setting that names it, ends."""

    name: str
    not_after_ms: int

    def days_left(self, now_ms: int) -> int:
        """Whole days; negative when it has expired."""
        return (self.not_after_ms - now_ms) // _DAY_MS


def read_roots(config: CloudConfig) -> bytes | None:
    """The named PEM, else the system's store; None (no such store): the list that comes with grpc.

    Raises:
        RefusedError: The file cannot be read, or has no certificate.
    """
    if config.ssl_cert is None:
        system = Path(ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt")
        return system.read_bytes() if system.is_file() else None
    pem = _read("ssl_cert", config.ssl_cert)
    if not _PEM.search(pem):
        raise RefusedError(f"cloud.ssl_cert: {config.ssl_cert} has no certificate (PEM: -----BEGIN CERTIFICATE-----)")
    return pem


def read_pair(config: CloudConfig) -> tuple[bytes, bytes] | None:
    """Our own key and certificate, None when there is none.

    Raises:
        RefusedError: A file cannot be read, or the two do not belong together.
    """
    if config.ssl_client_cert is None or config.ssl_client_key is None:
        return None
    pair = _read("ssl_client_key", config.ssl_client_key), _read("ssl_client_cert", config.ssl_client_cert)
    _load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), config)
    return pair


def client_context(config: CloudConfig, *, is_checked: bool = True) -> ssl.SSLContext:
    """The same trust as the link's, for a probe; `is_checked` False: only to look at the certificate.

    Raises:
        RefusedError: As `read_roots` and `read_pair`.
    """
    context = ssl.create_default_context()
    if config.ssl_cert is not None:
        roots = read_roots(config)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the server's own certificate may be the root
        try:
            context.load_verify_locations(cadata=(roots or b"").decode("ascii", "ignore"))
        except ssl.SSLError:
            raise RefusedError(f"cloud.ssl_cert: {config.ssl_cert} has no certificate that can be read") from None
    context.set_alpn_protocols(["h2"])
    _load_pair(context, config)
    if not is_checked:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def file_expiries(config: CloudConfig) -> list[Expiry]:
    """For each named file the certificate in it that ends first; a file that cannot be read is left out."""
    found = []
    for name, path in (("ssl_cert", config.ssl_cert), ("ssl_client_cert", config.ssl_client_cert)):
        if path is None:
            continue
        expiry = pem_expiry(f"cloud.{name}", path)
        if expiry is not None:  # otherwise connecting says what is wrong with it
            found.append(expiry)
    return found


def pem_expiry(name: str, path: Path) -> Expiry | None:
    """The certificate in this file that ends first; None when there is none that can be read."""
    try:
        blocks = _PEM.findall(path.read_bytes())
        ends = [not_after_ms(ssl.PEM_cert_to_DER_cert(block.decode("ascii"))) for block in blocks]
    except (OSError, ValueError, RejectedError):
        return None
    return Expiry(name, min(ends)) if ends else None


def common_names(der: bytes) -> tuple[str, str]:
    """Whose certificate (DER) this is, and who issued it: the common names, "" where there is none. A stranger's
    text: printable, and short.

    Raises:
        RejectedError: This is not a certificate.
    """
    tbs = _content(_content(der, 0, _SEQUENCE)[0], 0, _SEQUENCE)[0]
    tag, _, position = _element(tbs, 0)
    if tag == _VERSION:
        _, _, position = _element(tbs, position)
    _, position = _content(tbs, position, _SEQUENCE)
    issuer, position = _content(tbs, position, _SEQUENCE)
    _, position = _content(tbs, position, _SEQUENCE)
    subject, _ = _content(tbs, position, _SEQUENCE)
    return _common_name(subject), _common_name(issuer)


def _common_name(name: bytes) -> str:
    position = 0
    while position < len(name):
        parts, position = _content(name, position, _SET)
        pair, _ = _content(parts, 0, _SEQUENCE)
        _, kind, after = _element(pair, 0)
        if kind == _COMMON_NAME:
            text = _element(pair, after)[1].decode("utf-8", "replace")[:64]
            return "".join(letter if letter.isprintable() else "?" for letter in text)
    return ""


def not_after_ms(der: bytes) -> int:
    """The end of validity of a DER certificate, UTC epoch in milliseconds.

    Raises:
        RejectedError: This is not a certificate.
    """
    tbs = _content(_content(der, 0, _SEQUENCE)[0], 0, _SEQUENCE)[0]
    tag, _, position = _element(tbs, 0)
    if tag == _VERSION:  # absent in version 1
        tag, _, position = _element(tbs, position)
    if tag != _INTEGER:
        raise RejectedError("not a certificate: it has no serial number")
    for _ in range(2):  # the algorithm of the signature, the issuer
        _, position = _content(tbs, position, _SEQUENCE)
    validity, _ = _content(tbs, position, _SEQUENCE)
    _, _, position = _element(validity, 0)
    tag, text, _ = _element(validity, position)
    return _time_ms(tag, text)


def _time_ms(tag: int, text: bytes) -> int:
    try:
        digits = text.decode("ascii")
        if tag == _UTC_TIME:
            digits = ("19" if digits >= "5" else "20") + digits
        elif tag != _GENERALIZED_TIME:
            raise RejectedError("not a certificate: it has no end of validity")
        moment = datetime.strptime(digits, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise RejectedError(f"not a certificate: {text!r} is no time") from None
    return round(moment.timestamp()) * 1000


def _content(data: bytes, position: int, wanted: int) -> tuple[bytes, int]:
    tag, content, end = _element(data, position)
    if tag != wanted:
        raise RejectedError(f"not a certificate: tag {tag:#04x} where {wanted:#04x} belongs")
    return content, end


def _element(data: bytes, position: int) -> tuple[int, bytes, int]:
    """Tag, content and the position behind the element that begins at `position`."""
    head = data[position : position + 2]
    if len(head) < 2:
        raise RejectedError("not a certificate: it ends too early")
    tag, length, start = head[0], head[1], position + 2
    if length & 0x80:
        count = length & 0x7F
        digits = data[start : start + count]
        if not 1 <= count <= 4 or len(digits) < count:
            raise RejectedError("not a certificate: a length that is none")
        length, start = int.from_bytes(digits, "big"), start + count
    content = data[start : start + length]
    if len(content) < length:
        raise RejectedError("not a certificate: it ends too early")
    return tag, content, start + length


def _read(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RefusedError(f"cloud.{setting}: {path} cannot be read: {error.strerror}") from None


def _load_pair(context: ssl.SSLContext, config: CloudConfig) -> None:
    if config.ssl_client_cert is None or config.ssl_client_key is None:
        return
    try:  # an encrypted key must not ask for its password on the terminal
        context.load_cert_chain(config.ssl_client_cert, config.ssl_client_key, password=lambda: b"")
    except OSError as error:  # ssl.SSLError is one
        text = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        raise RefusedError(
            f"cloud.ssl_client_cert and ssl_client_key: {config.ssl_client_cert} and {config.ssl_client_key} are not a"
            f" certificate and its key, both PEM, the key without a password ({text})"
        ) from None
