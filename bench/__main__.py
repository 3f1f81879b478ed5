"""`make bench`: every figure beside its limit; `make bench ARGS='ingest drain'`: some of them."""

from __future__ import annotations

import asyncio
import importlib
import sys

END_TO_END = ("ingest", "end_to_end", "drain", "million", "footprint", "sd_card")
PARTS = (
    "broker_front",
    "connections",
    "rules_walk",
    "rules_aggregate",
    "rules_load",
    "store_commit",
    "uplink_drain",
    "modbus_poll",
    "modbus_wire",
    "modbus_rtu",
    "modbus_tcp",
    "modbus_late",
    "modbus_replug",
    "serial_replug",
    "field_bus",
    "reconnects",
    "full_sync",
    "http_ingest",
    "local_pubsub",
)


def main() -> None:
    names = sys.argv[1:] or [*END_TO_END, *PARTS]
    for name in names:
        if name not in END_TO_END + PARTS:
            sys.exit(f"no benchmark {name!r}; there are: {', '.join(END_TO_END + PARTS)}")
    for name in names:
        sys.stdout.write(f"\n── {name} ──\n")
        sys.stdout.flush()
        result = importlib.import_module(f"bench.{name}").main()
        if asyncio.iscoroutine(result):
            asyncio.run(result)


if __name__ == "__main__":
    main()
