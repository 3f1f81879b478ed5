"""Provision keys of the configuration, so that devices get in where no cloud has ever told of a profile."""

from __future__ import annotations

import ssl
from pathlib import Path

from gateway.config import ProvisioningConfig
from gateway.devices.provisioning import ProvisionKey
from gateway.domain.onboarding import ProvisionType, certificate_hash, certificate_line_of
from gateway.errors import ConfigError


def configured_keys(config: ProvisioningConfig) -> list[ProvisionKey]:
    """What `provisioning.keys` says.

    Raises:
        ConfigError: A certificate cannot be read, or a key stands twice.
    """
    types = {
        "create": ProvisionType.ALLOW_CREATE_NEW_DEVICES,
        "check": ProvisionType.CHECK_PRE_PROVISIONED_DEVICES,
        "x509": ProvisionType.X509_CERTIFICATE_CHAIN,
    }
    keys: dict[str, ProvisionKey] = {}
    for index, given in enumerate(config.keys):
        where, name, secret = f"provisioning.keys[{index}]", given.key, ""
        if given.certificate is not None:
            name = certificate_hash(_certificate(given.certificate, f"{where}.certificate"))
        elif given.secret is not None:
            secret = given.secret.get_secret_value()
        if name in keys:
            raise ConfigError(where, "stands twice; a key belongs to one profile")
        keys[name] = ProvisionKey(
            profile=given.profile,
            type=types[given.strategy].value,
            key=name,
            secret=secret,
            name_pattern=given.name_pattern,
            may_create=given.create_devices,
        )
    return list(keys.values())


def _certificate(path: Path, where: str) -> str:
    try:
        text = path.read_text(encoding="ascii")
        return certificate_line_of(ssl.PEM_cert_to_DER_cert(text[text.index("-----BEGIN CERTIFICATE-----") :]))
    except OSError as error:
        raise ConfigError(where, f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise ConfigError(where, f"{path} is not the PEM of one certificate") from None
