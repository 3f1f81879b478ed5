"""The whole owner on one connection with several questions in flight, whose answers come in any order."""

import asyncio
import random
import struct

from gateway.fieldbus import Fieldbus
from gateway.supervise import Counters, SystemClock
from tests.integration.test_modbus_plant import until
from tests.integration.test_modbus_wire import RawSlave, frame, registers
from tests.unit.fieldbus.inlet import FakeHouse

UNITS = 8


async def test_every_answer_finds_its_poll_and_writes_are_alone_in_their_unit():
    rng = random.Random(7)
    open_: list[tuple[int, int]] = []
    beside_a_write: list[tuple[int, int]] = []
    most = 0

    async def answer(slave, writer, tid, unit, pdu):
        nonlocal most
        function, address, value = struct.unpack(">BHH", pdu)
        if function == 6 or any(item == (6, unit) for item in open_):
            beside_a_write.extend(item for item in open_ if item[1] == unit)
        open_.append((function, unit))
        most = max(most, len(open_))
        await asyncio.sleep(rng.uniform(0.001, 0.01))
        open_.remove((function, unit))
        if function == 6:
            writer.write(frame(tid, unit, pdu))
        else:
            writer.write(frame(tid, unit, registers(*(unit * 100 + address + n for n in range(value)))))

    def point(address):
        place = {"table": "holding_register", "address": address, "type": "uint16"}
        return {"key": f"k{address}", "writable": True, **place}

    names = [f"D{unit}" for unit in range(1, UNITS + 1)]
    async with (slave := RawSlave(answer)).open() as wire:
        host, port = wire._place.split(":")
        tree = {
            "kind": "modbus",
            "name": "plant",
            "line": {"kind": "tcp", "host": host, "port": int(port), "in_flight": 4},
            "max_gap_registers": 0,
            "devices": [
                {"name": name, "unit_id": unit, "every_ms": 10, "telemetry": [point(1), point(50)]}
                for unit, name in enumerate(names, 1)
            ],
        }
        house = FakeHouse(*names)
        room = Fieldbus([tree], house, SystemClock(), Counters())
        task = asyncio.create_task(room.serve())
        try:
            await until(lambda: len(house.sessions) == UNITS)
            for n in range(10):
                house.session("D3").channel.send_attributes({"k1": n})
                await asyncio.sleep(0.02)
            await until(lambda: all(len(house.session(name).telemetry) > 10 for name in names))
        finally:
            task.cancel()
            await asyncio.wait([task])
        assert slave.connections == 1
    assert most == 4
    assert beside_a_write == []
    for unit, name in enumerate(names, 1):
        for item in house.session(name).telemetry:
            assert all(value == unit * 100 + int(key[1:]) for key, value in item.values.items())
    assert all(entry["errors"] == 0 for entry in room.status()[0]["units"])
