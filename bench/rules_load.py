"""What loaded rule chains weigh, and how long loading takes: `python -m bench.rules_load`.

A hundred chains of ten nodes, half of which have a script; peer in the same run: the same chains as parsed JSON.
"""

from __future__ import annotations

import gc
import time
from typing import Any
from uuid import UUID

import orjson

from bench.report import figure, note
from gateway.config import RulesConfig
from gateway.devices import State
from gateway.ports import Snapshot
from gateway.rules import RuleEngine
from gateway.supervise import Counters, SystemClock

CHAINS = 100
PREFIX = "org.thingsboard.rule.engine."


def _rss() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def _chain(with_scripts: bool) -> Any:
    nodes = []
    for index in range(10):
        script = {"scriptLang": "JS" if index % 4 else "TBEL"}
        body = f"return msg.temperature > {index};"
        kind = "filter.TbJsFilterNode" if with_scripts and index % 2 == 0 else "filter.TbCheckMessageNode"
        config = script | {"jsScript": body, "tbelScript": body} if "Js" in kind else {"messageNames": ["temperature"]}
        nodes.append({"type": PREFIX + kind, "name": f"n{index}", "configuration": config})
    connections = [{"fromIndex": i, "toIndex": i + 1, "type": "True"} for i in range(9)]
    return {"nodes": nodes, "firstNodeIndex": 0, "connections": connections}


def _loaded(with_scripts: bool) -> tuple[RuleEngine, float, float]:
    text = orjson.dumps(_chain(with_scripts))
    engine = RuleEngine(State(Snapshot()), RulesConfig(), SystemClock(), Counters())
    engine.load_files()
    gc.collect()
    before, started_s = _rss(), time.perf_counter()
    for number in range(CHAINS):
        engine.put_chain(UUID(int=number + 1), {"name": f"Chain {number}"})
        engine.put_metadata(UUID(int=number + 1), orjson.loads(text))
    took_ms = (time.perf_counter() - started_s) * 1000 / CHAINS
    gc.collect()
    return engine, (_rss() - before) / 1e6, took_ms


def main() -> None:
    """Both kinds of chains, beside their text."""
    gc.collect()
    before = _rss()
    parsed = [orjson.loads(orjson.dumps(_chain(True))) for _ in range(CHAINS)]
    peer_mb = (_rss() - before) / 1e6
    note(f"{len(parsed)} chains as parsed JSON: {peer_mb:.1f} MB")
    for label, with_scripts in (("without scripts", False), ("five of ten nodes are scripts", True)):
        engine, mb, ms = _loaded(with_scripts)
        assert len(engine.chains()) == CHAINS + 1
        figure(f"memory of {CHAINS} chains of 10 nodes, {label}", mb, "MB")
        figure(f"loading one of them, {label}", ms, "ms")
        note(f"{mb / peer_mb:.1f} times the parsed text; {mb * 1000 / CHAINS / 10:.0f} kB a node")


if __name__ == "__main__":
    main()
