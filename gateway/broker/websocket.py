"""MQTT over WebSocket (RFC 6455, subprotocol `mqtt`): a socket whose frames carry a `Connection`'s bytes.

The frames are read and written by `websockets`' sans-I/O protocol: it is alive, amqtt needs it anyway, and it
checks what a peer can do wrong (masks, fragments, control frames, close codes, sizes). There are no extensions:
compression would let a small frame become a large one.

Source: OASIS MQTT 3.1.1 §6 and 5.0 §6: binary frames only, packets need not end where frames end.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final, Protocol, cast

from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from websockets.typing import Origin, Subprotocol

from gateway.broker.admission import Admission
from gateway.config import BrokerConfig
from gateway.supervise import Counters

_SUBPROTOCOLS: Final = (Subprotocol("mqtt"), Subprotocol("mqttv3.1"))
_UNSUPPORTED_DATA: Final = 1003
_GOING_AWAY: Final = 1001
_PACKETS_A_FRAME: Final = 4

# What a peer does wrong is counted, not logged.
_frames_log: Final = logging.getLogger("gateway.broker.websocket.frames")
_frames_log.setLevel(logging.CRITICAL)


class Inner(Protocol):
    """What a `Connection` is for this layer."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Comes at accept: the handshake is a part of the time for CONNECT."""
        ...

    def data_received(self, data: bytes) -> None:
        """The bytes of one frame."""
        ...

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        ...

    def pause_writing(self) -> None:
        """The peer does not read."""
        ...

    def resume_writing(self) -> None:
        """It reads again."""
        ...


class WebSocket(asyncio.Protocol):
    """One socket: handshake, frames, goodbye."""

    def __init__(self, config: BrokerConfig, counters: Counters, admission: Admission, inner: Inner) -> None:
        self._config, self._counters, self._admission, self._inner = config, counters, admission, inner
        origins = [Origin(name) for name in config.websocket_origins]
        self.frames = ServerProtocol(
            origins=[*origins, None] if origins else None,
            subprotocols=_SUBPROTOCOLS,
            max_size=_PACKETS_A_FRAME * config.max_packet_bytes,
            logger=_frames_log,
        )
        self.socket: asyncio.Transport
        self._partial_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection behind it decides whether it may come in."""
        self.socket = cast("asyncio.Transport", transport)
        self._inner.connection_made(_Tunnel(self))

    def data_received(self, data: bytes) -> None:
        """Bytes of the peer: a part of the handshake, or frames."""
        if self.socket.is_closing():
            return
        self.frames.receive_data(data)
        for event in self.frames.events_received():
            if isinstance(event, Request):
                self._answer(event)
            elif isinstance(event, Frame) and not self._take(event):
                break
        if self.frames.parser_exc is not None or self.frames.handshake_exc is not None:
            self._counters.add("broker.websocket_errors")
        self.flush()
        if not self.socket.is_closing():
            self._hold_partial(len(self.frames.reader.buffer))

    def eof_received(self) -> None:
        """The peer sends no more: the socket closes."""

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._hold_partial(0)
        self._inner.connection_lost(exc)

    def give_up(self) -> None:
        """Its unfinished frame takes room that others need."""
        self._partial_bytes = 0
        self.socket.abort()

    def pause_writing(self) -> None:
        """The peer does not read."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """It reads again."""
        self._inner.resume_writing()

    def flush(self) -> None:
        """What the protocol has to say; an empty piece is its wish to close."""
        is_end = False
        for data in self.frames.data_to_send():
            if data:
                self.socket.write(data)
            else:
                is_end = True
        if is_end:
            self.socket.close()

    def _take(self, frame: Frame) -> bool:
        if frame.opcode is Opcode.TEXT:
            self._counters.add("broker.websocket_errors")
            self.frames.fail(_UNSUPPORTED_DATA, "MQTT is binary")
            return False
        if frame.opcode in (Opcode.BINARY, Opcode.CONT) and frame.data:
            self._inner.data_received(bytes(frame.data))
        return True

    def _hold_partial(self, size_bytes: int) -> None:
        if size_bytes or self._partial_bytes:
            self._partial_bytes = size_bytes
            self._admission.holds(self, size_bytes)

    def _answer(self, request: Request) -> None:
        path = request.path.partition("?")[0]
        if path != self._config.websocket_path:
            self._counters.add("broker.websocket_refused")
            response = self.frames.reject(404, f"MQTT is at {self._config.websocket_path}\n")
        else:
            response = self.frames.accept(request)
            if response.status_code != 101:
                self._counters.add("broker.websocket_refused")
        self.frames.send_response(response)


class _Tunnel(asyncio.Transport):
    """The transport that the connection sees."""

    def __init__(self, web: WebSocket) -> None:
        super().__init__()
        self._web = web
        self._is_closing = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._web.socket.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self._is_closing or self._web.socket.is_closing()

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if self._web.frames.state is OPEN:
            self._web.frames.send_binary(bytes(data))
            self._web.flush()

    def close(self) -> None:
        """Says goodbye first; the peer's goodbye, or the connection's patience, closes the socket."""
        self._is_closing = True
        if self._web.frames.state is OPEN:
            self._web.frames.send_close(_GOING_AWAY)
            self._web.flush()
            self._web.socket.resume_reading()
        else:
            self._web.socket.close()

    def abort(self) -> None:
        self._is_closing = True
        self._web.socket.abort()

    def pause_reading(self) -> None:
        self._web.socket.pause_reading()

    def resume_reading(self) -> None:
        self._web.socket.resume_reading()

    def get_write_buffer_size(self) -> int:
        return self._web.socket.get_write_buffer_size()
