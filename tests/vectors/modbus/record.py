"""Records the conversations beside it, between pymodbus's client and pymodbus's server: python -m tests.vectors.modbus.record

The answers to late questions are recorded ones too; only their order is arranged.
"""

import asyncio
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from pymodbus.client import AsyncModbusTcpClient
from pymodbus.framer import FramerType
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

UNIT = 17
FRAMINGS = {"tcp": FramerType.SOCKET, "rtu": FramerType.RTU, "ascii": FramerType.ASCII}
CALLS = [
    ("Read Coils", lambda c: c.read_coils(3, count=10, device_id=UNIT), "bits"),
    ("Read Discrete Inputs", lambda c: c.read_discrete_inputs(0, count=19, device_id=UNIT), "bits"),
    ("Read Holding Registers", lambda c: c.read_holding_registers(7, count=3, device_id=UNIT), "registers"),
    ("Read Input Registers", lambda c: c.read_input_registers(5, count=2, device_id=UNIT), "registers"),
    ("Write Single Coil", lambda c: c.write_coil(4, True, device_id=UNIT), None),
    ("Write Single Register", lambda c: c.write_register(9, 0xBEEF, device_id=UNIT), None),
    ("Write Multiple Coils", lambda c: c.write_coils(2, [True, False, True] * 4, device_id=UNIT), None),
    ("Write Multiple Registers", lambda c: c.write_registers(12, [1, 258, 65535], device_id=UNIT), None),
    (
        "Mask Write Register",
        lambda c: c.mask_write_register(address=9, and_mask=0xFF00, or_mask=0x12, device_id=UNIT),
        None,
    ),
    (
        "Read/Write Multiple Registers",
        lambda c: c.readwrite_registers(
            read_address=12, read_count=3, write_address=13, values=[77, 88], device_id=UNIT
        ),
        "registers",
    ),
    ("Refused: illegal data address", lambda c: c.read_holding_registers(60_000, count=2, device_id=UNIT), "code"),
    ("Another unit", lambda c: c.read_holding_registers(7, count=3, device_id=UNIT + 1), "registers"),
]


class Tap:
    """A proxy that writes down what passes."""

    def __init__(self, port):
        self.port, self.passed = port, []

    async def serve(self, reader, writer):
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.port)

        async def pump(source, sink, mark):
            while data := await source.read(4096):
                self.passed.append((mark, data))
                sink.write(data)
            sink.close()

        with suppress(asyncio.CancelledError):  # at the end
            await asyncio.gather(pump(reader, far_writer, ">>"), pump(far_reader, writer, "<<"))


def values(answer, kind):
    if kind == "code":
        return f"refused {answer.exception_code}"
    assert not answer.isError(), answer
    if kind is None:
        return "done"
    return " ".join(str(int(value)) for value in getattr(answer, kind))


async def record(framing):
    blocks = (
        [SimData(0, values=[True, False, False, True] * 8, datatype=DataType.BITS)],
        [SimData(0, values=[False, True, True] * 8, datatype=DataType.BITS)],
        [SimData(0, values=[n * 1111 for n in range(40)], datatype=DataType.REGISTERS)],
        [SimData(0, values=[n * 999 for n in range(40)], datatype=DataType.REGISTERS)],
    )
    devices = [SimDevice(unit, simdata=blocks) for unit in (UNIT, UNIT + 1)]
    server = ModbusTcpServer(devices, framer=FRAMINGS[framing], address=("127.0.0.1", 0))
    await server.listen()
    tap = Tap(server.transport.sockets[0].getsockname()[1])
    proxy = await asyncio.start_server(tap.serve, "127.0.0.1", 0)
    client = AsyncModbusTcpClient("127.0.0.1", port=proxy.sockets[0].getsockname()[1], framer=FRAMINGS[framing])
    await client.connect()
    found = {}
    for title, call, kind in CALLS:
        tap.passed.clear()
        answer = await call(client)
        assert [mark for mark, _ in tap.passed] == [">>", "<<"]
        found[title] = [data for _, data in tap.passed], values(answer, kind)
    client.close()
    proxy.close()
    await server.shutdown()
    return found


def text(framing, data):
    return data.decode().strip() if framing == "ascii" else data.hex(" ").upper()


def page(framing, found):
    lines = [
        f"# Conversations of Modbus, framing {framing}. >> is what the master sends, << what comes back, `.. n` n seconds of",
        "# silence, = what the question has brought: values, done, refused with a code, or silent. The timeout is 0.1 s, and an",
        "# answer may be 0.2 s later.",
        f"# Source: pymodbus {version('pymodbus')}, its client and its server, recorded by record.py",
    ]
    for title, ((asked, answered), result) in found.items():
        lines += ["", f"# {title}", f">> {text(framing, asked)}", f"<< {text(framing, answered)}", f"= {result}"]
    first, other, refused = (
        found[key] for key in ("Read Holding Registers", "Another unit", "Refused: illegal data address")
    )
    (asked, answered), result = first

    def said(exchange, *, silent=False):
        mark = [f">> {text(framing, exchange[0][0])}"]
        return mark if silent else [*mark, f"<< {text(framing, exchange[0][1])}", f"= {exchange[1]}"]

    lines += ["", "# Late, while nobody is asked: the next question is not answered by it"]
    lines += [
        *said(first, silent=True),
        ".. 0.12",
        "= silent",
        f"<< {text(framing, answered)}",
        ".. 0.2",
        *said(refused),
    ]
    lines += ["", "# Late, while another unit is asked"]
    lines += [*said(first, silent=True), ".. 0.1", "= silent", f">> {text(framing, other[0][0])}"]
    lines += [f"<< {text(framing, answered)}", ".. 0.03", f"<< {text(framing, other[0][1])}", f"= {other[1]}"]
    lines += ["", "# Silent; then another unit is asked"]
    lines += [*said(refused, silent=True), ".. 0.1", "= silent", *said(other)]
    return "\n".join(lines) + "\n"


async def main():
    for framing in FRAMINGS:
        (Path(__file__).parent / f"{framing}.txt").write_text(page(framing, await record(framing)))


if __name__ == "__main__":
    asyncio.run(main())
