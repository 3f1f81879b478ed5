"""The cloud."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, SecretStr, model_validator

from gateway.config.base import Port, Settings


class CloudConfig(Settings):
    """The gRPC link to the cloud."""

    enabled: bool = True
    routing_key: SecretStr = SecretStr("")
    routing_secret: SecretStr = SecretStr("")
    routing_key_file: Path | None = None
    routing_secret_file: Path | None = None
    host: str = "localhost"
    port: Port = 7070
    timeout_ms: PositiveInt = 5000
    ssl_enabled: bool = False
    ssl_cert: Path | None = Field(None, description="PEM of the CA or of the server; default: the system's.")
    ssl_server_name: str | None = Field(None, description="Expect this name in the certificate.")
    ssl_client_cert: Path | None = Field(None, description="PEM of our own certificate, where a proxy in front asks.")
    ssl_client_key: Path | None = None
    proxy_host: str | None = Field(None, description="HTTP CONNECT proxy.")
    proxy_port: Port = 3128
    proxy_user: str | None = None
    proxy_password: SecretStr | None = None
    edge_version: Literal["3.7.0", "4.0.0", "4.2.0", "4.3.0"] = Field(
        "3.7.0",
        description="The release announced: the highest that the server knows. 3.7.0 is known by all.",
    )
    max_inbound_bytes: PositiveInt = 4_194_304
    keepalive_s: Annotated[float, Field(ge=1.0)] = 30.0
    keepalive_timeout_s: PositiveFloat = 10.0
    answer_timeout_s: PositiveFloat = Field(20.0, description="The link is rebuilt when an answer is older than this.")
    probe_s: NonNegativeFloat = Field(
        60.0, description="After so much silence a tiny message asks whether the cloud still hears us; 0: never."
    )
    sync_timeout_s: PositiveFloat = 120.0
    reconnect_ms: PositiveInt = 3000
    reconnect_max_ms: PositiveInt = 60_000
    gzip: bool = False
    batch_size: PositiveInt = Field(100, description="Telemetry events that share one uplink message.")
    batch_timeout_ms: NonNegativeInt = Field(
        1000,
        description="Longest wait for a fuller batch while answers are outstanding; an idle link sends at once.",
    )
    window: PositiveInt = Field(32, description="Uplink messages in flight.")
    drain: Literal["oldest_first", "live_first"] = Field(
        "oldest_first", description="live_first: after an outage new telemetry overtakes the backlog, which follows."
    )
    attribute_wait_s: Annotated[float, Field(ge=0.0, le=4.5)] = Field(
        3.0,
        description="Longest wait of a device for shared attributes that only the cloud may know; 0: it is not asked.",
    )
    refresh_attributes: bool = Field(
        True, description="Ask again for the attributes of all devices and assets once a new connection lasts."
    )
    stats_interval_s: NonNegativeInt = Field(60, description="Report uplinkMsgs… statistics of the EDGE; 0: never.")
    retry_interval_ms: PositiveInt = 3000
    max_retries: PositiveInt = Field(10, description="Refusals of one event before it is parked.")
    rate_limit_pause_s: PositiveFloat = Field(60.0, description="Nothing is sent for so long after a rate limit.")

    @model_validator(mode="after")
    def _both_or_none(self) -> CloudConfig:
        if self.reconnect_max_ms < self.reconnect_ms:
            raise ValueError("reconnect_max_ms must not be below reconnect_ms")
        if (self.ssl_client_cert is None) != (self.ssl_client_key is None):
            raise ValueError("ssl_client_cert and ssl_client_key are given together")
        return self
