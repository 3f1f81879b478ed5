"""The router between sessions that end with their connection: amqtt, unmodified, behind its `external` listener.

Each device that uses a local topic gets an amqtt session over a pair of in-memory pipes, spoken as 3.1.1,
with a client id of ours: whatever ids the devices use, they cannot get into each other's way, and a
session ends with its connection. API topics never come here, so no wildcard can reach them.

What amqtt 0.12 lacks is fenced in. It drops a QoS 1 message that is unacknowledged after 5 s and forgets the
publisher's QoS, so everything passes it with QoS 0; the QoS, who published it and what 5.0 says beside it travel in
front of the payload, and the front owns the delivery. Retained messages, wills, shared subscriptions and persistent
sessions stay outside. Its queues have no bound, so reading from a device stops while they are long.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import struct
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import suppress
from typing import Any, Final

from amqtt.adapters import ReaderAdapter, WriterAdapter
from amqtt.broker import Broker
from amqtt.errors import AMQTTError

from gateway.broker import encode
from gateway.broker.local_messages import loaded, stored
from gateway.broker.packets import Connect, Publish, Suback, Unsuback
from gateway.broker.wire import Decoder

log = logging.getLogger(__name__)
logging.getLogger("amqtt").setLevel(logging.ERROR)  # a library in the house, not a voice in the log
logging.getLogger("transitions").setLevel(logging.ERROR)

_ENVELOPE: Final = struct.Struct(">BQQ")  # flags, number of the message, origin
_REMEMBERED: Final = 1_000  # messages of which another copy is known, for a session with several filters
_RETAINED, _HAS_MORE = 0x04, 0x08
_LISTENER: Final = "default"
_MAX_QUEUED: Final = 1000  # messages in amqtt's queues before its sessions stop reading
_MAX_PIPE_BYTES: Final = 65_536  # then the front stops reading from the device
_LOOK_AGAIN_S: Final = 0.01
_MAX_PACKET_BYTES: Final = 268_435_455  # the front has checked the size


class LocalBroker:
    """Starts with its first member; `run` is its life."""

    def __init__(self, spawn: Callable[[Coroutine[Any, Any, None], str], None]) -> None:
        self._spawn = spawn
        self._numbers = itertools.count(1)
        self._messages = itertools.count(1)
        self._started: asyncio.Future[Broker] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Until cancelled."""
        broker = Broker(
            {
                "listeners": {_LISTENER: {"type": "external", "bind": "in-memory"}},
                "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
            }
        )
        await broker.start()
        self._started.set_result(broker)
        try:
            await asyncio.Event().wait()
        finally:
            with suppress(TimeoutError, AMQTTError):
                async with asyncio.timeout(2):
                    await broker.shutdown()

    def attach(
        self, deliver: Callable[[Publish, int], None], relieved: Callable[[], None], gone: Callable[[], None]
    ) -> AmqttSession:
        """A new session; what is sent before amqtt is up waits in its pipe."""
        client_id = f"device-connection-{next(self._numbers)}"
        session = AmqttSession(client_id, self._messages, deliver, relieved, gone)
        self._spawn(self._serve(session), f"local {client_id}")
        return session

    async def _serve(self, session: AmqttSession) -> None:
        broker = await asyncio.shield(self._started)
        session.reader.broker = broker
        try:
            await broker.external_connected(session.reader, session.writer, _LISTENER)
        except Exception:
            log.exception("local publish/subscribe: a session failed")
        session.ended()


class AmqttSession:
    """The front's end of one session: a small 3.1.1 client without a socket."""

    def __init__(
        self,
        client_id: str,
        messages: Iterator[int],
        deliver: Callable[[Publish, int], None],
        relieved: Callable[[], None],
        gone: Callable[[], None],
    ) -> None:
        self._deliver, self._gone, self._messages = deliver, gone, messages
        self._recent: dict[int, None] = {}  # numbers of messages
        self.reader = PipeReader(client_id, relieved)
        self.writer = PipeWriter(self._receive)
        self._decoder = Decoder(_MAX_PACKET_BYTES)
        self._ids = itertools.cycle(range(1, 65_536))
        self._subscriptions: dict[int, Callable[[list[int]], None]] = {}
        self._leaving: dict[int, list[str]] = {}  # filters by the packet that ends them
        self._is_closed = False
        self.reader.feed(encode.connect(Connect(version=4, client_id=client_id)))

    @property
    def is_congested(self) -> bool:
        """True while amqtt is behind."""
        return self.reader.is_full

    def publish(self, packet: Publish, origin: int) -> None:
        """To every session that has subscribed there."""
        extra = b"" if packet.more is None else stored(packet.more)
        flags = packet.qos | (_RETAINED if packet.is_retained else 0) | (_HAS_MORE if extra else 0)
        head = _ENVELOPE.pack(flags, next(self._messages), origin)
        self.reader.feed(encode.publish(4, packet.topic, head + extra + packet.payload))

    def subscribe(self, filters: list[str], answer: Callable[[list[int]], None]) -> None:
        """`answer` is called when amqtt has answered."""
        packet_id = next(self._ids)
        self._subscriptions[packet_id] = answer
        self.reader.feed(encode.subscribe(4, packet_id, [(name, 0) for name in filters]))

    def unsubscribe(self, filters: list[str]) -> None:
        """Takes effect when amqtt gets there."""
        packet_id = next(self._ids)
        self._leaving[packet_id] = filters
        self.reader.feed(encode.unsubscribe(4, packet_id, filters))

    def close(self) -> None:
        """The device is gone."""
        if not self._is_closed:
            self._is_closed = True
            self._end_when_heard()

    def _end_when_heard(self) -> None:
        # What amqtt hears before it has begun to look for the end of a session it forgets: that session never ends.
        # It has begun when it answers a subscription, and every session that is closed has asked for one.
        if not self._subscriptions:
            self.reader.feed(encode.disconnect(4))
            self.reader.feed_eof()

    def ended(self) -> None:
        """The session ended on amqtt's side."""
        was_closed, self._is_closed = self._is_closed, True
        if not was_closed:
            self._gone()

    def _receive(self, data: bytes) -> None:
        self._decoder.receive(data)
        while (packet := self._decoder.next_packet()) is not None:
            if isinstance(packet, Suback):
                answer = self._subscriptions.pop(packet.packet_id, None)
                if self._is_closed:
                    self._end_when_heard()
                elif answer is not None:
                    answer(packet.codes)
            elif isinstance(packet, Unsuback):
                self.reader.forget(self._leaving.pop(packet.packet_id, ()))
            elif isinstance(packet, Publish) and not self._is_closed:
                self._open(packet)

    def _open(self, packet: Publish) -> None:
        flags, number, origin = _ENVELOPE.unpack_from(packet.payload)
        if number in self._recent:  # amqtt sends one for each filter that matches
            return
        self._recent[number] = None
        if len(self._recent) > _REMEMBERED:
            del self._recent[next(iter(self._recent))]
        more, start = None, _ENVELOPE.size
        if flags & _HAS_MORE:
            more, _, start = loaded(packet.payload, start)
        is_retained = bool(flags & _RETAINED)
        out = Publish(packet.topic, packet.payload[start:], flags & 3, is_retained=is_retained, more=more)
        self._deliver(out, origin)


class PipeReader(ReaderAdapter):  # type: ignore[misc]  # amqtt has no type information
    """What amqtt reads from."""

    def __init__(self, client_id: str, relieved: Callable[[], None]) -> None:
        self.broker: Broker | None = None
        self._client_id, self._relieved = client_id, relieved
        self._buffer = bytearray()
        self._more = asyncio.Event()
        self._is_ended = False
        self._was_full = False

    @property
    def is_full(self) -> bool:
        """True: stop feeding; `relieved` is called when the pipe is empty again."""
        self._was_full = self._was_full or len(self._buffer) > _MAX_PIPE_BYTES
        return self._was_full

    def feed(self, data: bytes) -> None:
        """Bytes for amqtt."""
        if not self._is_ended:
            self._buffer += data
            self._more.set()

    def forget(self, filters: Iterable[str]) -> None:
        """Nobody's filters go: amqtt would keep each, and compare every message with it."""
        held = {} if self.broker is None else self.broker.subscriptions
        for name in filters:
            if name in held and not held[name]:
                del held[name]

    def feed_eof(self) -> None:
        """No more will come."""
        self._is_ended = True
        self._more.set()

    async def read(self, n: int = -1) -> bytes:
        """Exactly `n` bytes, fewer only at the end."""
        # One byte: the beginning of a packet. amqtt tells nobody when its queues get shorter.
        while n == 1 and self._queued() > _MAX_QUEUED:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_AGAIN_S)
        while len(self._buffer) < n and not self._is_ended:
            if self._was_full and not self._buffer:
                self._was_full = False
                self._relieved()
                continue
            self._more.clear()
            await self._more.wait()
        taken = bytes(self._buffer[: n if n >= 0 else None])
        del self._buffer[: len(taken)]
        return taken

    def _queued(self) -> int:
        """Messages that amqtt has taken and not yet handed out. The broadcast queue has no public name."""
        if self.broker is None:
            return 0
        session, _ = self.broker.sessions.get(self._client_id, (None, None))
        own: int = session.delivered_message_queue.qsize() if session is not None else 0
        shared: int = self.broker._broadcast_queue.qsize()
        return own + shared


class PipeWriter(WriterAdapter):  # type: ignore[misc]  # amqtt has no type information
    """What amqtt writes to."""

    def __init__(self, receive: Callable[[bytes], None]) -> None:
        self._receive = receive

    def write(self, data: bytes) -> None:
        """Straight to the session."""
        self._receive(bytes(data))

    async def drain(self) -> None:
        """Nothing is buffered here."""

    def get_peer_info(self) -> tuple[str, int]:
        """Amqtt only logs it."""
        return "in-memory", 0

    def get_ssl_info(self) -> None:
        """No TLS in memory."""
        return

    async def close(self) -> None:
        """The session's end is noticed where it is served."""
