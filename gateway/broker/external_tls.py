"""TLS to a broker of somebody else: the context of our files, and in words why there is no connection."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from gateway.config import ExternalBrokerConfig
from gateway.errors import GatewayError, RefusedError, TransientError

# What OpenSSL found, X509_V_ERR_*
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_OTHER_NAME: Final = (62, 64)
_NO_TLS_THERE: Final = ("WRONG_VERSION", "UNKNOWN_PROTOCOL", "RECORD_LAYER", "UNEXPECTED_EOF", "HTTP_REQUEST")


class ClientContext(ssl.SSLContext):
    """Knows the socket that it has made: paho forgets to close one whose handshake fails."""

    made: ssl.SSLSocket | None = None

    def wrap_socket(self, *arguments: Any, **named: Any) -> ssl.SSLSocket:
        """As it always is."""
        self.made = super().wrap_socket(*arguments, **named)
        return self.made

    def close(self) -> None:
        """There is no connection."""
        if self.made is not None:
            self.made.close()


def client_context(config: ExternalBrokerConfig) -> ClientContext:
    """With the certificates of the configuration.

    Raises:
        RefusedError: A file cannot be used; says which.
    """
    context = ClientContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if config.tls_ca is None:
        context.load_default_certs()
    else:
        ca = config.tls_ca
        _use("tls_ca", (ca,), "no PEM file of a CA", lambda: context.load_verify_locations(str(ca)))
    if config.tls_cert is not None and config.tls_key is not None:
        cert, key = config.tls_cert, config.tls_key
        # An empty password: a key that needs one is an error here, not a question on a terminal.
        _use(
            "tls_cert and tls_key",
            (cert, key),
            "no PEM files of a certificate and its key (without a password) that belong together",
            lambda: context.load_cert_chain(str(cert), str(key), password=""),
        )
    return context


def _use(what: str, paths: tuple[Path, ...], wanted: str, load: Callable[[], None]) -> None:
    names = " and ".join(map(str, paths))
    for path in paths:
        try:
            path.open("rb").close()
        except OSError as error:
            raise RefusedError(f"external_broker.{what}: {path} cannot be read: {error.strerror}") from error
    try:
        load()
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise RefusedError(f"external_broker.{what}: {wanted}: {names}") from error


def no_connection(error: OSError, config: ExternalBrokerConfig) -> GatewayError:
    """What a failed connect means: `RefusedError` where a person must act."""
    text, is_final = _words(error, config)
    kind = RefusedError if is_final else TransientError
    return kind(f"cannot connect to {config.host} port {config.port}: {text}")


def _words(error: OSError, config: ExternalBrokerConfig) -> tuple[str, bool]:
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code == _EXPIRED:
            return "the broker's certificate has expired, or the clock here is wrong", True
        if error.verify_code == _NOT_YET_VALID:
            return "the broker's certificate is not valid yet: is the clock here right?", False
        if error.verify_code in _OTHER_NAME:
            name = f"the broker's certificate is for another name than {config.host!r}"
            return f"{name}: set external_broker.host to a name in it", True
        remedy = f"is {config.tls_ca} its CA?" if config.tls_ca else "name its CA in external_broker.tls_ca"
        return f"the broker's certificate is not signed by a CA that is trusted here: {remedy}", True
    if isinstance(error, ssl.SSLError):
        reason = (error.reason or "").upper()
        if any(part in reason for part in _NO_TLS_THERE):
            return "no TLS there: another port, or external_broker.tls: false", False
        return f"TLS: {reason.replace('_', ' ').lower() or error}", False
    if isinstance(error, socket.gaierror):
        return f"the name is not known ({error.strerror})", False
    if isinstance(error, TimeoutError):
        return "no answer in time", False
    if config.tls and isinstance(error, ConnectionError) and not isinstance(error, ConnectionRefusedError):
        return "the broker hung up in the TLS handshake: no TLS on this port?", False
    return error.strerror or str(error) or type(error).__name__, False


def hung_up(config: ExternalBrokerConfig) -> str:
    """What may be wrong when a connection ends before the broker has said anything."""
    if config.tls:
        asks = (
            "does not accept external_broker.tls_cert" if config.tls_cert else "asks for one (external_broker.tls_cert)"
        )
        return f"it hung up before it answered; where it wants client certificates, it {asks}"
    return "it hung up before it answered; does it want TLS (external_broker.tls)?"
