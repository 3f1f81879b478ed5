"""A million reads on each wire, with late, spoilt and foreign answers: how many were credited to another question.

    python -m bench.modbus_late [--reads 1000000] [--wire rtu]

Our real framers and masters in virtual time (`tests/fakes/late_reads.py`), in as many processes as there are cores.
The line is one at 19200 baud (ASCII with parity) where 20 % of the answers come up to three timeouts late, 5 % are
spoilt and one unit of ten is dead; the TCP devices put wrong transaction ids on late answers. The peer is the same line
without the rule that a unit which owes an answer is not asked: it shows that wrong answers would be seen.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from bench.report import figure, note
from tests.fakes.late_reads import QUIRKS, QUIRKS_OF_MANY, Tally, line_reads, tcp_reads

CHUNK = 50_000
WIRES = ("rtu", "ascii", "tcp, 1 in flight", "tcp, 16 in flight")


def chunk(wire: str, reads: int, seed: int) -> Any:
    """One share of them, in a process of its own."""
    if wire in ("rtu", "ascii"):
        return asyncio.run(line_reads(wire, reads, seed))
    in_flight = int(wire.split()[1])
    return tcp_reads(in_flight, reads, seed, quirks=QUIRKS if in_flight == 1 else QUIRKS_OF_MANY)


def without_the_rule(reads: int) -> Any:
    """The peer."""
    return asyncio.run(line_reads("rtu", reads, 1, late_s=0.0, silent=()))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reads", type=int, default=1_000_000, help="on each wire")
    parser.add_argument("--wire", choices=WIRES, action="append")
    options = parser.parse_args(arguments or [])
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        list(pool.map(abs, range(os.cpu_count() or 1)))  # started before the clock runs
        for wire in options.wire or WIRES:
            start_s = time.monotonic()
            sizes = [min(CHUNK, options.reads - done) for done in range(0, options.reads, CHUNK)]
            shares = [pool.submit(chunk, wire, size, seed) for seed, size in enumerate(sizes)]
            tally = sum((share.result() for share in shares), Tally())
            spent_s = time.monotonic() - start_s
            reads = tally.good + tally.none + tally.wrong
            figure(f"{wire}: {reads:,} reads, wrong answers", tally.wrong, "", at_most=0.0)
            figure(f"{wire}: time for them", spent_s, "s", at_most=60.0 * reads / 1_000_000)
            note(f"answered {tally.good / reads:.1%}, given up {tally.none / reads:.1%}, sent late {tally.late:,}")
        tally = pool.submit(without_the_rule, 50_000).result()
        figure("peer, rtu without the rule: wrong answers in 50,000", tally.wrong, "")


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
