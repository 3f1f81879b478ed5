"""Devices that are configured here, and what they may do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, SecretStr, field_validator, model_validator

from gateway.config.base import Settings
from gateway.domain.onboarding import PROVISION_USER
from gateway.domain.rates import LIMIT_NAMES, Limits, Rates, Sender, parse_rate
from gateway.domain.rpc import RpcStrategy


class TokenCredentials(Settings):
    """The device sends the token as its MQTT user name."""

    access_token: SecretStr


class BasicCredentials(Settings):
    """MQTT user name, password, client id; needs client_id or user_name."""

    client_id: str | None = None
    user_name: str | None = None
    password: SecretStr | None = None

    @model_validator(mode="after")
    def _needs_a_name(self) -> BasicCredentials:
        if not (self.client_id or self.user_name):
            raise ValueError("needs client_id or user_name")
        if self.password and not self.user_name:
            raise ValueError("password needs user_name")
        return self


class DeviceConfig(Settings):
    """A device that this gateway creates (and announces to the cloud) when it does not exist."""

    name: Annotated[str, Field(min_length=1, max_length=255)]
    profile: str = "default"
    label: str | None = None
    access_token: Annotated[SecretStr, Field(min_length=1)] | None = None
    access_token_file: Path | None = None
    mqtt_basic: BasicCredentials | None = None
    gateway: bool = Field(False, description="May speak for devices behind it, on topics v1/gateway/….")

    @model_validator(mode="after")
    def _one_credential(self) -> DeviceConfig:
        given = [key for key in ("access_token", "access_token_file", "mqtt_basic") if getattr(self, key) is not None]
        if len(given) > 1:
            raise ValueError(f"has {' and '.join(given)}; a device has one kind of credentials")
        basic = self.mqtt_basic
        names = (self.access_token and self.access_token.get_secret_value(), basic and basic.user_name)
        if PROVISION_USER in (*names, basic and basic.client_id):
            raise ValueError(
                f"{PROVISION_USER!r} as token, user_name or client_id asks for provisioning; take another one"
            )
        return self


class OtaConfig(Settings):
    """Firmware and software that devices download from here."""

    max_bytes: PositiveInt = Field(
        512 << 20,
        description="What packages from the cloud may take in data_dir/ota; one that does not fit is refused.",
    )
    folder: Path | None = Field(
        None, description="Packages of your own: their files and packages.yaml (docs/ota.md); works without a cloud."
    )


class ProvisionKeyConfig(Settings):
    """One key that devices may provision themselves with, beside those of the cloud's profiles."""

    profile: Annotated[str, Field(min_length=1, max_length=255)]
    strategy: Literal["create", "check", "x509"] = "create"
    key: str = ""
    secret: SecretStr | None = None
    secret_file: Path | None = None
    certificate: Path | None = None
    name_pattern: str = "(.*)"
    create_devices: bool = True

    @model_validator(mode="after")
    def _is_whole(self) -> ProvisionKeyConfig:
        if self.strategy == "x509":
            if self.certificate is None or self.key or self.secret or self.secret_file:
                raise ValueError("strategy x509 needs certificate (PEM of the maker's), and no key and secret")
            try:
                re.compile(self.name_pattern)
            except re.error as error:
                raise ValueError(f"name_pattern is no regular expression: {error}") from None
        elif not self.key or (not self.secret) == (self.secret_file is None):
            raise ValueError("needs key, and either secret or secret_file")
        elif self.certificate is not None:
            raise ValueError("certificate is for strategy x509")
        return self


class ProvisioningConfig(Settings):
    """Devices that get in by themselves, and claims."""

    allow_claiming_by_default: bool = Field(
        True, description="false: only a device with the server attribute claimingAllowed = true may be claimed."
    )
    keys: tuple[ProvisionKeyConfig, ...] = Field(
        (), description="Keys beside those of the cloud's profiles: {profile, key, secret, strategy}."
    )


class RpcConfig(Settings):
    """Calls to devices: whether a device's next one waits for the one before (`docs/devices.md`)."""

    strategy: RpcStrategy = RpcStrategy.BURST


class RateLimitsConfig(Settings):
    """How much devices may send, each as `count:seconds,count:seconds`; empty: no limit (`docs/limits.md`)."""

    device_messages: str = Field(
        "", description="Of one device: connecting, subscriptions, requests, calls, claims, as in 10:1,300:60."
    )
    device_telemetry_messages: str = Field("", description="Telemetry and attributes: messages of one device.")
    device_telemetry_data_points: str = Field("", description="The same: values of one device.")
    gateway_own_messages: str = Field("", description="What a gateway sends of itself.")
    gateway_own_telemetry_messages: str = ""
    gateway_own_telemetry_data_points: str = ""
    gateway_messages: str = Field("", description="All devices behind one gateway together.")
    gateway_telemetry_messages: str = ""
    gateway_telemetry_data_points: str = ""
    sub_device_messages: str = Field("", description="Each device behind a gateway.")
    sub_device_telemetry_messages: str = ""
    sub_device_telemetry_data_points: str = ""

    @field_validator("*")
    @classmethod
    def _is_a_rate(cls, text: str) -> str:
        parse_rate(text)
        return text.replace(" ", "")

    def rates(self) -> Rates | None:
        """Nobody has sent anything yet; None: there is no limit."""
        rates = Rates({one: Limits(**{name: getattr(self, f"{one}_{name}") for name in LIMIT_NAMES}) for one in Sender})
        return None if rates.is_off() else rates
