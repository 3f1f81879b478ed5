"""Nodes that speak to other servers: rest api call, mqtt. Source: reference rule-engine §4.5."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Literal

import orjson
from pydantic import Field, SecretStr

from gateway.domain.entity import Json
from gateway.domain.message import Message
from gateway.errors import RejectedError, TransientError
from gateway.ports import Outcome
from gateway.rules.node import (
    FAILURE,
    SUCCESS,
    Answer,
    Later,
    NodeConfig,
    NodeEnv,
    Routed,
    Run,
    Unreachable,
    as_text,
    changed,
    node,
)
from gateway.rules.nodes.periodic import SERVICE_ID
from gateway.rules.outside import check_host, check_url
from gateway.rules.pem import Pem, tls_context
from gateway.rules.template import template

if TYPE_CHECKING:
    from gateway.rules.rest_client import Reply, Wish

DEFAULT_TIMEOUT_MS: Final = 20_000
MAX_TIMEOUT_MS: Final = 120_000
MAX_PARALLEL: Final = 50
MAX_ANSWER_KB: Final = 4096
_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class CredentialsConfig(NodeConfig):
    """Who the other server takes this node for."""

    type: Literal["anonymous", "basic", "cert.PEM"] = "anonymous"
    username: str = ""
    password: SecretStr = SecretStr("")
    ca_cert: str = ""
    cert: str = ""
    private_key: SecretStr = SecretStr("")

    @property
    def pem(self) -> Pem | None:
        """Its certificates."""
        if self.type != "cert.PEM":
            return None
        key, password = self.private_key.get_secret_value(), self.password.get_secret_value()
        return Pem(ca=self.ca_cert, certificate=self.cert, key=key, password=password)

    @property
    def user(self) -> tuple[str, str] | None:
        """Its user."""
        return (self.username, self.password.get_secret_value()) if self.type == "basic" else None


class RestConfig(NodeConfig):
    """Whom to ask, and how."""

    rest_endpoint_url_pattern: str = Field("http://localhost/api", description="A template.")
    request_method: Literal["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"] = "POST"
    headers: dict[str, str] = Field({"Content-Type": "application/json"}, description="Names and values are templates.")
    read_timeout_ms: int = Field(0, ge=0, description=f"0: {DEFAULT_TIMEOUT_MS}; never more than {MAX_TIMEOUT_MS}.")
    max_parallel_requests_count: int = Field(0, ge=0, description=f"0, and more: {MAX_PARALLEL}.")
    parse_to_plain_text: bool = Field(False, description="A body that is a text is sent without its quotes.")
    ignore_request_body: bool = Field(False, description="Nothing is sent.")
    max_in_memory_buffer_size_in_kb: int = Field(
        256, ge=1, description=f"The longest answer; never more than {MAX_ANSWER_KB}."
    )
    credentials: CredentialsConfig = Field(
        CredentialsConfig(),
        description="`anonymous`, `basic` (`username`, `password`) or `cert.PEM` (`caCert`, `cert`, `privateKey`, "
        "`password`).",
    )
    enable_proxy: bool = False
    use_system_proxy_properties: bool = Field(False, description="The proxy of the gateway's environment.")
    proxy_scheme: Literal["http", "https"] = "http"
    proxy_host: str = ""
    proxy_port: int = 0
    proxy_user: str = ""
    proxy_password: SecretStr = SecretStr("")


@node("rest.TbRestApiCallNode", "rest api call", RestConfig)
def rest_api_call(config: RestConfig, env: NodeEnv) -> Run:
    """Asks another server that `rules.allow_rest` names. The message's acknowledgement waits for the answer."""
    return _Rest(config, env).run


class _Rest:
    def __init__(self, config: RestConfig, env: NodeEnv) -> None:
        self._config, self._env = config, env
        self._allowed = env.shared.config.allow_rest
        self._url = template(config.rest_endpoint_url_pattern)
        self._headers = [(template(name), template(value)) for name, value in config.headers.items()]
        # Imported when needed: few chains call anybody, and the library is as large as the rest of the rules.
        from gateway.rules.rest_client import RestClient

        self._client = RestClient(self._wish())
        self._is_open = False
        if "$" not in config.rest_endpoint_url_pattern:
            try:
                check_url(config.rest_endpoint_url_pattern, self._allowed)
            except RejectedError as error:
                env.note(str(error))

    def _wish(self) -> Wish:
        from gateway.rules.rest_client import Wish

        config = self._config
        proxy = None
        if config.enable_proxy and not config.use_system_proxy_properties:
            proxy = f"{config.proxy_scheme}://{config.proxy_host}:{config.proxy_port}"
            check_url(proxy, self._allowed)
        secret = config.proxy_password.get_secret_value()
        return Wish(
            timeout_s=min(config.read_timeout_ms or DEFAULT_TIMEOUT_MS, MAX_TIMEOUT_MS) / 1000,
            parallel=min(config.max_parallel_requests_count or MAX_PARALLEL, MAX_PARALLEL),
            max_bytes=min(config.max_in_memory_buffer_size_in_kb, MAX_ANSWER_KB) << 10,
            pem=config.credentials.pem,
            user=config.credentials.user,
            proxy=proxy,
            proxy_user=(config.proxy_user, secret) if proxy is not None and config.proxy_user else None,
            uses_environment=config.enable_proxy and config.use_system_proxy_properties,
        )

    def run(self, msg: Message, out: Outcome) -> Answer:
        """It is asked later; who may not be asked is a failure at once."""
        url = self._url(msg)
        try:
            check_url(url, self._allowed)
        except RejectedError as error:
            return Routed((FAILURE,), (_with_error(msg, error),), str(error))
        headers = {name(msg): value(msg) for name, value in self._headers}
        method = self._config.request_method
        body = None if self._config.ignore_request_body or method not in _WITH_BODY else self._body(msg)

        async def ask(later: Outcome) -> Answer:
            if not self._is_open:
                self._is_open = True
                self._env.shared.outside.hold(self._env.owner, self._client.close)
            try:
                reply = await self._client.call(method, url, headers, body)
            except TransientError as error:
                raise Unreachable(str(error), _with_error(msg, error)) from None
            except RejectedError as error:
                return Routed((FAILURE,), (_with_error(msg, error),), str(error))
            return _answered(msg, reply)

        return Later(ask)

    def _body(self, msg: Message) -> bytes:
        if self._config.parse_to_plain_text and isinstance(msg.data, str):
            return msg.data.encode()
        return orjson.dumps(msg.data)


class MqttConfig(NodeConfig):
    """To which broker, as whom, and what."""

    topic_pattern: str = Field("my-topic", description="A template.")
    host: str = "localhost"
    port: int = Field(1883, ge=1, le=65535)
    connect_timeout_sec: int = Field(10, ge=1, le=200)
    client_id: str = Field("", description="Empty: a new one each time.")
    append_client_id_suffix: bool = Field(False, description=f"`_{SERVICE_ID}` behind the client id.")
    clean_session: bool = False
    retained_message: bool = False
    ssl: bool = False
    parse_to_plain_text: bool = Field(False, description="A body that is a text is sent without its quotes.")
    protocol_version: Literal["MQTT_3_1", "MQTT_3_1_1", "MQTT_5"] = "MQTT_3_1_1"
    credentials: CredentialsConfig = Field(
        CredentialsConfig(), description="As those of *rest api call*; `cert.PEM` needs `ssl`."
    )


@node("mqtt.TbMqttNode", "mqtt", MqttConfig)
def mqtt(config: MqttConfig, env: NodeEnv) -> Run:
    """Publishes the body to a broker that `rules.allow_mqtt` names; the acknowledgement waits for that broker's."""
    check_host(config.host, config.port, env.shared.config.allow_mqtt)
    if not config.client_id and not config.clean_session:
        raise RejectedError("a session that is kept (cleanSession false) needs a clientId")
    from gateway.rules.mqtt_client import Broker, MqttPublisher

    suffix = f"_{SERVICE_ID}" if config.client_id and config.append_client_id_suffix else ""
    broker = Broker(
        host=config.host,
        port=config.port,
        connect_timeout_s=float(config.connect_timeout_sec),
        client_id=config.client_id + suffix,
        is_clean=config.clean_session,
        version=config.protocol_version,
        tls=tls_context(config.credentials.pem) if config.ssl else None,
        user=config.credentials.user,
    )
    publisher, topic_of, is_open = MqttPublisher(broker, env.clock), template(config.topic_pattern), False

    def run(msg: Message, out: Outcome) -> Answer:
        topic = topic_of(msg)
        is_plain = config.parse_to_plain_text and isinstance(msg.data, str)
        payload = msg.data.encode() if is_plain else orjson.dumps(msg.data)

        async def ask(later: Outcome) -> Answer:
            nonlocal is_open
            if not is_open:
                is_open = True
                env.shared.outside.hold(env.owner, publisher.close)
            try:
                await publisher.publish(topic, payload, is_retained=config.retained_message)
            except TransientError as error:
                raise Unreachable(str(error), _with_error(msg, error)) from None
            except RejectedError as error:
                return Routed((FAILURE,), (_with_error(msg, error),), str(error))
            return SUCCESS

        return Later(ask)

    return run


def _with_error(msg: Message, error: Exception) -> Message:
    return changed(msg, metadata={**msg.metadata, "error": f"{type(error).__name__}: {error}"})


def _answered(msg: Message, reply: Reply) -> Routed:
    try:
        name = HTTPStatus(reply.status).name
    except ValueError:
        name = ""
    metadata = {
        **msg.metadata,
        "status": name,
        "statusCode": str(reply.status),
        "statusReason": reply.reason,
        **{header: _value(values) for header, values in reply.headers.items()},
    }
    if 200 <= reply.status < 300:
        return Routed((SUCCESS,), (changed(msg, data=_parsed(reply.text), metadata=metadata),))
    failed = changed(msg, metadata={**metadata, "error_body": reply.text})
    return Routed((FAILURE,), (failed,), f"the answer is {reply.status} {reply.reason}")


def _value(values: list[str]) -> str:
    return values[0] if len(values) == 1 else as_text(values)


def _parsed(text: str) -> Json:
    """A body is JSON wherever it can be; nothing is an empty object."""
    if not text:
        return {}
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
