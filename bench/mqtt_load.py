"""MQTT QoS 1 publishers as lean as they can be in Python: the load must not be the limit of what is measured."""

from __future__ import annotations

import argparse
import asyncio
import struct
import sys
import time


def _field(text: bytes) -> bytes:
    return struct.pack(">H", len(text)) + text


def _remaining(length: int) -> bytes:
    out = bytearray()
    while True:
        length, digit = divmod(length, 128)
        out.append(digit | 0x80 if length else digit)
        if not length:
            return bytes(out)


def connect_packet(token: str, client_id: str = "", version: int = 4) -> bytes:
    """MQTT 3.1.1 (4) or 5.0 (5), clean session, user name only."""
    properties = b"\0" if version == 5 else b""
    head = _field(b"MQTT") + bytes([version, 0x82]) + struct.pack(">H", 0) + properties
    body = head + _field(client_id.encode()) + _field(token.encode())
    return b"\x10" + _remaining(len(body)) + body


class Publisher(asyncio.Protocol):
    """Keeps `window` publishes unanswered until `count` are answered, or until `until_s`."""

    def __init__(
        self, token: str, topic: str, count: int | None, window: int, rate: float | None, version: int = 4
    ) -> None:
        self._version, self._properties = version, b"\0" if version == 5 else b""
        self._every = 1 if window <= 2 else 64  # of which publishes the latency is taken
        self._token, self._topic, self._count, self._window = token, _field(topic.encode()), count, window
        self._rate = rate
        self._buffer = b""
        self._sent = 0
        self.answered = 0
        self.until_s: float | None = None
        self.connected: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.latencies_s: list[float] = []
        self._sent_at: dict[int, float] = {}
        self._started_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        transport.write(connect_packet(self._token, self._token, self._version))  # type: ignore[attr-defined]

    def connection_lost(self, exc: Exception | None) -> None:
        for future in (self.connected, self.done):
            if not future.done():
                future.set_exception(ConnectionError(f"{self._token}: the connection ended: {exc}"))

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        offset = 0
        while len(buffer) - offset >= 4:
            kind, length = buffer[offset], buffer[offset + 1]  # what a broker answers here is shorter than 128 bytes
            if len(buffer) - offset < 2 + length:
                break
            if kind == 0x20:
                code = buffer[offset + 3]
                if code:
                    self.connected.set_exception(ConnectionError(f"{self._token}: refused with {code}"))
                    return
                self.connected.set_result(None)
            elif kind == 0x40:
                if length > 2 and buffer[offset + 4] >= 0x80:
                    self.done.set_exception(ConnectionError(f"{self._token}: a publish was refused"))
                    return
                self.answered += 1
                if self.answered % self._every == 0:
                    at = self._sent_at.pop(self.answered, None)
                    if at is not None:
                        self.latencies_s.append(time.perf_counter() - at)
            offset += 2 + length
        self._buffer = buffer[offset:]
        self._push()

    def start(self) -> None:
        self._started_s = time.perf_counter()
        self._push()

    def _push(self) -> None:
        if self.done.done() or not self.connected.done() or not self._started_s:
            return  # what a client published while others still connect would be counted and not timed
        now_s = time.perf_counter()
        ended = self.until_s is not None and now_s >= self.until_s
        if ended or (self._count is not None and self._sent >= self._count):
            if self.answered >= self._sent:
                self.done.set_result(None)
            return
        room = self._window - (self._sent - self.answered)
        if self._count is not None:
            room = min(room, self._count - self._sent)
        if self._rate is not None:
            room = min(room, int((now_s - self._started_s) * self._rate) - self._sent)
        parts = []
        for _ in range(room):
            self._sent += 1
            number = self._sent
            if number % self._every == 0:
                self._sent_at[number] = now_s
            ts = int(time.time() * 1000)
            payload = b'{"ts":%d,"values":{"seq":%d,"temperature":21.5}}' % (ts, number)
            packet_id = struct.pack(">H", (number - 1) % 65535 + 1)
            length = len(self._topic) + 2 + len(self._properties) + len(payload)
            parts.append(b"\x32" + _remaining(length) + self._topic + packet_id + self._properties + payload)
        if parts:
            self._transport.write(b"".join(parts))  # type: ignore[attr-defined]

    def tick(self) -> None:
        self._push()


async def run_load(
    port: int,
    tokens: list[str],
    *,
    per_client: int | None = None,
    window: int = 50,
    seconds: float | None = None,
    rate: float | None = None,
    topic: str = "v1/devices/me/telemetry",
    report: dict[str, float] | None = None,
    version: int = 4,
) -> int:
    """Publish until every client has `per_client` answers, or for `seconds`; how many were answered.

    `rate` is messages per second over all clients; None: as fast as the window allows.
    """
    loop = asyncio.get_running_loop()
    clients: list[Publisher] = []
    for token in tokens:
        each = rate / len(tokens) if rate else None
        client = Publisher(token, topic, per_client, window, each, version)
        await loop.create_connection(lambda client=client: client, "127.0.0.1", port)  # type: ignore[misc]
        clients.append(client)
    await asyncio.gather(*(client.connected for client in clients))
    started_s = time.perf_counter()
    for client in clients:
        if seconds is not None:
            client.until_s = started_s + seconds
        client.start()
    pending = asyncio.gather(*(client.done for client in clients))
    while not pending.done():
        await asyncio.wait([pending], timeout=0.005 if rate else 0.2)
        for client in clients:
            client.tick()
    await pending
    took_s = time.perf_counter() - started_s
    answered = sum(client.answered for client in clients)
    if report is not None:
        latencies = sorted(value for client in clients for value in client.latencies_s)
        report["seconds"] = took_s
        report["rate"] = answered / took_s
        report["p50_ms"] = latencies[len(latencies) // 2] * 1000 if latencies else 0.0
        report["p99_ms"] = latencies[len(latencies) * 99 // 100] * 1000 if latencies else 0.0
    for client in clients:
        client._transport.close()
    return answered


def main() -> None:
    """As a process of its own: prints `answered seconds rate p50_ms p99_ms`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--per-client", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--window", type=int, default=50)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--topic", default="v1/devices/me/telemetry")
    parser.add_argument("--version", type=int, choices=(4, 5), default=4, help="4: MQTT 3.1.1")
    options = parser.parse_args()
    tokens = [f"token-{i}" for i in range(options.clients)]
    report: dict[str, float] = {}
    load = run_load(
        options.port,
        tokens,
        per_client=options.per_client,
        seconds=options.seconds,
        window=options.window,
        rate=options.rate,
        topic=options.topic,
        report=report,
        version=options.version,
    )
    import uvloop

    answered = uvloop.run(load)
    sys.stdout.write(
        f"{answered} {report['seconds']:.3f} {report['rate']:.1f} {report['p50_ms']:.3f} {report['p99_ms']:.3f}\n"
    )


if __name__ == "__main__":
    main()
