"""An adapter that is pulled in the middle of polling: the bus reads on when it is back, whatever number its tty has."""

import asyncio
import os
from itertools import pairwise

from drivers.modbus.plugin import plugin
from gateway.fieldbus import Fieldbus
from gateway.supervise import Counters, SystemClock
from tests.e2e.parts import until
from tests.fakes.inlet import FakeInlet
from tests.fakes.modbus_line import Units, held
from tests.fakes.paced_line import PacedLine


async def test_polling_goes_on_under_the_same_name_and_another_number(tmp_path):
    link, units = tmp_path / "adapter", (3, 4)
    points = [{"key": "k", "table": "holding_register", "address": 5, "type": "uint16"}]
    devices = [{"name": f"unit-{unit}", "unit_id": unit, "every_ms": 20, "telemetry": points} for unit in units]
    serial = {"kind": "rtu", "device": str(link), "baud": 115200}
    tree = {"kind": "modbus", "timeout_s": 0.2, "line": serial, "devices": devices}
    inlet, counters = FakeInlet(), Counters()
    for device in devices:
        inlet.add_device(device["name"], device["name"])
    line = PacedLine(Units(1), 115200)
    with line.open(link):
        room = Fieldbus([tree], inlet, SystemClock(), counters, plugins={"modbus": plugin})
        serving = asyncio.create_task(room.serve())
        ttys, descriptors = [], []
        try:
            for _ in range(4):
                ttys.append(line.tty)
                have = [len(session.posted) for session in inlet.opened]

                async def all_have_read(have=have):
                    return have and all(
                        len(session.posted) > count for session, count in zip(inlet.opened, have, strict=True)
                    )

                if have:
                    await until(all_have_read, 10, f"nothing is read on {line.tty}")
                    assert room.status()[0]["connected"]
                descriptors.append(len(os.listdir("/proc/self/fd")))
                line.pull()

                async def is_lost():
                    return room.status()[0]["lost_since_ms"] is not None

                await until(is_lost, 10, "the loss is not seen")
                line.plug(new_number=True)
            assert not serving.done()
        finally:
            serving.cancel()
            await asyncio.wait([serving])
    assert all(before != after for before, after in pairwise(ttys))
    assert descriptors[-1] <= descriptors[1] + 4, "those that the line itself holds to get new numbers"
    values = {items[0].values["k"] for session in inlet.opened for items in session.posted}
    assert values == {held(unit, 3, 5) for unit in units}
