"""The device API behind a foreign broker, where the topic names the device: `{prefix}/{device}/…`.

Data, questions and presence are a set of mapping rules. What no rule can say is done here: calls to the server, claims,
packages, and answers to calls that an earlier connection has handed over.

Source: ThingsBoard 4.3 device API, client-side RPC, claiming, OTA chunks; the topics are our own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

import orjson

from gateway.broker.external_chunks import ExternalChunks, read_request
from gateway.broker.mapped import Mapped
from gateway.broker.mapping_rules import RuleSet
from gateway.broker.topics import parse_id
from gateway.config import BrokerConfig
from gateway.domain import payloads
from gateway.domain.entity import Json
from gateway.domain.onboarding import parse_claim
from gateway.domain.payloads import PayloadError
from gateway.errors import RejectedError
from gateway.ports import DeviceSession, Receipt

Publish = Callable[[str, bytes], Awaitable[None]]
Spawn = Callable[[Coroutine[Any, Any, None], str], None]

GET_SESSION_LIMITS: Final = "getSessionLimits"
_ID_WANTED: Final = "the request id in the topic must be a 32-bit integer"


class ExternalApi:
    """What devices of one broker ask for."""

    def __init__(
        self,
        set_: RuleSet,
        prefix: str,
        broker: BrokerConfig,
        mapped: Mapped,
        publish: Publish,
        question: Spawn,
        chunks: ExternalChunks | None,
    ) -> None:
        """`publish` is done when the broker has it; `question` owns the task that answers one."""
        self._set, self._base, self._broker, self._mapped = set_, f"{prefix}/", broker, mapped
        self._publish, self._question, self._chunks = publish, question, chunks
        self._handlers: Final = {
            "call": self._call,
            "claim": self._claim,
            "fw": self._package,
            "sw": self._package,
            "rpc": self._rpc_answer,
        }

    def filters(self) -> list[str]:
        """To subscribe to, beside those of the rules."""
        rests = ["call/request/+", "claim"]
        if self._chunks is not None:
            rests += ["fw/request/+/chunk/+", "sw/request/+/chunk/+"]
        return [f"{self._base}+/{rest}" for rest in rests]

    def is_mine(self, topic: str) -> bool:
        """Not for the rules. Asked of every message."""
        if not topic.startswith(self._base):
            return False
        levels = topic[len(self._base) :].split("/", 2)
        if len(levels) < 2 or levels[1] not in self._handlers:
            return False
        return levels[1] != "rpc" or not self._mapped.awaits(topic)

    def heard(self, topic: str, payload: bytes) -> Receipt | None:
        """One message; None: nothing of it has to be durable.

        Raises:
            PayloadError: It does not say what it should; acknowledged, it would never fit.
        """
        name, _, rest = topic[len(self._base) :].partition("/")
        if not name or not self._mapped.is_ours(name):
            return None
        return self._handlers[rest.partition("/")[0]](topic, name, rest, payload)

    def _call(self, topic: str, name: str, rest: str, payload: bytes) -> Receipt | None:
        id_text = rest.removeprefix("call/request/")
        if id_text == rest:
            return None
        request_id = parse_id(id_text)
        if request_id is None:
            raise PayloadError(_ID_WANTED)
        method, params = payloads.parse_client_rpc(payload)
        answer_to = f"{self._base}{name}/call/response/{request_id}"

        def ask(session: DeviceSession) -> None:
            session.touch()
            if method == GET_SESSION_LIMITS:
                self._question(self._tell(answer_to, session_limits(self._broker, is_gateway=False)), answer_to)
            else:
                self._question(self._tell_answer(answer_to, session, request_id, method, params), answer_to)

        return self._mapped.do(name, self._set, topic, ask)

    async def _tell(self, topic: str, payload: bytes) -> None:
        await self._publish(topic, payload)

    async def _tell_answer(
        self, topic: str, session: DeviceSession, request_id: int, method: str, params: Json
    ) -> None:
        answer = await session.call_server(request_id, method, params)
        await self._publish(topic, ('{"error":"timeout"}' if answer is None else answer).encode())

    def _claim(self, topic: str, name: str, rest: str, payload: bytes) -> Receipt | None:
        if rest != "claim":
            return None
        secret_key, duration_ms = parse_claim(payload)
        return self._mapped.do(name, self._set, topic, lambda session: session.claim(secret_key, duration_ms))

    def _package(self, topic: str, name: str, rest: str, payload: bytes) -> Receipt | None:
        request = read_request(f"{self._base}{name}/", rest, payload)
        if request is None or self._chunks is None:
            return None
        chunks = self._chunks

        def ask(session: DeviceSession) -> None:
            session.touch()
            try:
                chunks.ask(session.device, request)
            except RejectedError as error:
                self._mapped.problem("external.package_errors", topic, str(error))

        return self._mapped.do(name, self._set, topic, ask)

    def _rpc_answer(self, topic: str, name: str, rest: str, payload: bytes) -> Receipt | None:
        """To a call that went out before this connection was made: its number is all that is needed."""
        rpc_id = parse_id(rest.removeprefix("rpc/response/"))
        if rpc_id is None or not rest.startswith("rpc/response/"):
            return None
        text = payloads.rpc_answer_text(payload)
        return self._mapped.do(name, self._set, topic, lambda session: session.answer_rpc(rpc_id, text))


def session_limits(config: BrokerConfig, *, is_gateway: bool) -> bytes:
    """The answer to `getSessionLimits`. Null is unlimited: behind a foreign broker nobody's rate is limited here, and
    clients take an answer without `rateLimits` for none at all.
    """
    unlimited = {"messages": None, "telemetryMessages": None, "telemetryDataPoints": None}
    limits: dict[str, object] = {
        "maxPayloadSize": config.max_packet_bytes,
        "maxInflightMessages": config.max_inflight,
        "rateLimits": unlimited,
    }
    if is_gateway:
        limits["gatewayRateLimits"] = unlimited
    return orjson.dumps(limits)


def native_rules(prefix: str) -> dict[str, Any]:
    """What mapping rules can say of it."""
    base = f"{prefix}/{{device}}"
    return {
        "up": [
            {"topic": f"{base}/telemetry", "payload": "telemetry"},
            {"topic": f"{base}/attributes", "payload": "attributes"},
            {"topic": f"{base}/attributes/request/{{id}}", "payload": "attribute_request"},
            {
                "topic": f"{base}/status",
                "payload": "text",
                "presence": {"online": ["online", "1", "true"], "offline": ["offline", "0", "false"]},
            },
        ],
        "down": [
            {"attribute_answer": True, "topic": f"{base}/attributes/response/{{id}}", "payload": "{values}"},
            {"attributes": "*", "topic": f"{base}/attributes/changed", "payload": "{values}"},
            {"attributes_deleted": "*", "topic": f"{base}/attributes/deleted", "payload": {"deleted": "{keys}"}},
            {
                "rpc": "*",
                "topic": f"{base}/rpc/request/{{rpc_id}}",
                "payload": {"method": "{method}", "params": "{params}"},
                "answer": {"topic": f"{base}/rpc/response/{{rpc_id}}", "timeout_s": 86400},
            },
        ],
    }
