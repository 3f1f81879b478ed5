"""Certificates that stand in a node's configuration as text."""

from __future__ import annotations

import ssl
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from gateway.errors import RejectedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Pem:
    """Certificates as PEM text; the key may have a password."""

    ca: str = ""
    certificate: str = ""
    key: str = field(default="", repr=False)
    password: str = field(default="", repr=False)


def tls_context(pem: Pem | None) -> ssl.SSLContext:
    """Certificates are checked always, against this CA, else against those of the system.

    Raises:
        RejectedError: A PEM text cannot be used.
    """
    try:
        context = ssl.create_default_context(cadata=pem.ca if pem and pem.ca.strip() else None)
    except (ssl.SSLError, ValueError):
        raise RejectedError("the CA certificate is no PEM text of a certificate") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if pem is None or not (pem.certificate or pem.key):
        return context
    with tempfile.TemporaryDirectory(prefix="edge-gateway-") as folder:  # 0700; ssl reads files only
        certificate, key = Path(folder, "certificate.pem"), Path(folder, "key.pem")
        certificate.write_text(pem.certificate)
        key.write_text(pem.key)
        try:
            context.load_cert_chain(certificate, key, password=pem.password)
        except (OSError, ValueError):
            raise RejectedError("certificate and private key are no PEM texts that belong together") from None
    return context
