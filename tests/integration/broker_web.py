"""A WebSocket client that sends exactly the frames it is told to (RFC 6455 §5.2), without any library."""

import asyncio
import base64
import ssl

KEY = base64.b64encode(b"0123456789abcdef").decode()


def frame(opcode: int, payload: bytes, *, fin: bool = True, mask: bool = True, reserved: int = 0) -> bytes:
    head = bytes([(0x80 if fin else 0) | reserved | opcode])
    size, masked = len(payload), 0x80 if mask else 0
    if size < 126:
        head += bytes([masked | size])
    elif size < 65_536:
        head += bytes([masked | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([masked | 127]) + size.to_bytes(8, "big")
    if not mask:
        return head + payload
    key = b"\x5a\x01\xc3\xff"  # the ids of tests must not change
    return head + key + bytes(byte ^ key[index % 4] for index, byte in enumerate(payload))


def request(path: str = "/mqtt", **headers: str | None) -> bytes:
    """A handshake; a header given as None is left out."""
    fields: dict[str, str | None] = {
        "Host": "localhost",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Protocol": "mqtt",
    } | {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items() if value is not None)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


class WebPeer:
    """`read` gives (opcode, payload) of the next frame, or None when the socket is closed."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, port: int, context: ssl.SSLContext | None = None) -> "WebPeer":
        return cls(*await asyncio.open_connection("localhost", port, ssl=context))

    async def shake_hands(self, raw: bytes | None = None) -> str:
        """Status line and headers of the answer; "" when there was none."""
        self.writer.write(request() if raw is None else raw)
        async with asyncio.timeout(5):
            try:
                return (await self.reader.readuntil(b"\r\n\r\n")).decode()
            except (asyncio.IncompleteReadError, ConnectionResetError):
                return ""

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def read(self) -> tuple[int, bytes] | None:
        async with asyncio.timeout(5):
            try:
                first, size = await self.reader.readexactly(2)
                if size == 126:
                    size = int.from_bytes(await self.reader.readexactly(2), "big")
                elif size == 127:
                    size = int.from_bytes(await self.reader.readexactly(8), "big")
                return first & 0x0F, await self.reader.readexactly(size)
            except (asyncio.IncompleteReadError, ConnectionResetError):
                return None

    def close(self) -> None:
        self.writer.close()
