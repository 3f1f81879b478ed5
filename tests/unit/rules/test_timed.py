"""Nodes that hold messages back: deduplication and delay, with their worked examples, restarts and bounds."""

import pytest

from tests.unit.rules.kit import CHAIN_ID, PUSH, Rules, bodies, metadata

NOW_MS = 1_700_000_000_000


def dedup(**config):
    return ("deduplication.TbMsgDeduplicationNode", "dedup", {"interval": 10, **config})


def delay(**config):
    return ("delay.TbMsgDelayNode", "delay", {"periodInSeconds": 5, **config})


def at(rules, value, ts_ms=None):
    ts_ms = rules.clock.now_ms() if ts_ms is None else ts_ms
    return rules.run({"v": value}, metadata={"deviceName": "Press 1", "ts": str(ts_ms)})


def values(outcomes):
    return [body["data"]["v"] for outcome in outcomes for body in bodies(outcome)]


@pytest.mark.parametrize(("strategy", "expected"), [("FIRST", [[0], [10], [27]]), ("LAST", [[9], [10], [27]])])
async def test_the_worked_example(strategy, expected):
    rules = Rules([dedup(strategy=strategy), PUSH], (0, 1, "Success"))
    results = []
    for second, pause in ((0, 3), (3, 6), (9, 1), (10, 17), (27, 30)):
        out = at(rules, second)
        assert bodies(out) == []
        fired = await rules.wait(pause)
        results += [values([outcome]) for outcome in fired if values([outcome])]
    assert results == expected


async def test_the_times_of_the_worked_example():
    rules = Rules([dedup(), PUSH], (0, 1, "Success"))
    for pause in (3, 6, 1):
        at(rules, 0)
        await rules.wait(pause)
    at(rules, 10)
    assert values(await rules.wait(0)) == []
    assert values(await rules.wait(0.001)) == [0]
    assert values(await rules.wait(10)) == []
    assert values(await rules.wait(0.001)) == [10]


async def test_back_fill_closes_several_packs_in_one_tick():
    rules = Rules([dedup(), PUSH], (0, 1, "Success"))
    for second in (100, 104, 111, 115):
        at(rules, second, second * 1000)
    outcomes = await rules.wait(10.001)
    assert len(outcomes) == 1
    assert values(outcomes) == [100, 111]


async def test_all_makes_one_message_of_an_array_with_the_metadata_of_each():
    rules = Rules(
        [dedup(strategy="ALL", outMsgType="POST_TELEMETRY_REQUEST"), ("action.TbLogNode", "end", {})],
        (0, 1, "Success"),
    )
    seen = []
    rules.engine._chains[CHAIN_ID].nodes[1].run = lambda msg, out: seen.append(msg)
    at(rules, 1)
    at(rules, 2)
    await rules.wait(11)
    assert [entry["msg"] for entry in seen[0].data] == [{"v": 1}, {"v": 2}]
    assert seen[0].data[0]["metadata"]["deviceName"] == "Press 1"
    assert list(seen[0].metadata) == ["ts"]


async def test_what_waits_is_there_after_a_restart_and_comes_once():
    rules = Rules([dedup(strategy="LAST"), PUSH], (0, 1, "Success"))
    at(rules, 1, NOW_MS)
    at(rules, 2, NOW_MS + 1)
    assert len(rules.local) == 2
    rules.restart()
    at(rules, 3, NOW_MS + 2)
    assert values(await rules.wait(10.001)) == [3]
    assert rules.local == {}
    assert values(await rules.wait(60)) == []


async def test_too_many_of_one_originator_are_a_failure_and_nothing_is_lost():
    rules = Rules([dedup(maxPendingMsgs=2), PUSH], (0, 1, "Success"))
    at(rules, 1)
    at(rules, 2)
    assert "maxPendingMsgs" in at(rules, 3).errors[0]
    assert values(await rules.wait(11)) == [1]


async def test_what_all_nodes_hold_is_bounded_also_over_a_restart_and_makes_room_again(monkeypatch):
    monkeypatch.setattr("gateway.rules.kept.MAX_HELD_BYTES", 1500)
    rules = Rules([delay(), dedup(), PUSH], (0, 2, "Success"), (0, 1, "Failure"), (1, 2, "Success"))
    errors = [at(rules, number).errors for number in range(10)]
    kept = errors.count([])
    assert 2 <= kept < 10
    assert errors[kept][0].startswith("Root / dedup: the messages that rules hold back weigh")
    rules.restart()
    assert len(at(rules, 1).errors) == 1
    assert len(values(await rules.wait(11))) == kept
    assert at(rules, 1).errors == []
    while not at(rules, 1).errors:
        pass
    rules.put(CHAIN_ID, "Root", metadata([PUSH, delay()], (0, 1, "Success")), True)
    rules.put(CHAIN_ID, "Root", metadata([dedup()]), True)  # what the delay held goes with it
    assert at(rules, 1).errors == []


async def test_an_item_that_cannot_be_read_is_told_and_keeps_no_other_from_coming_back(caplog):
    rules = Rules([delay(), PUSH], (0, 1, "Success"))
    at(rules, 1)
    at(rules, 2)
    rules.local[next(iter(rules.local))] = b"{"
    rules.restart()
    assert "cannot be read" in caplog.text
    assert values(await rules.wait(6)) == [2]


async def test_a_chain_that_is_sent_again_keeps_what_waits():
    rules = Rules([dedup(), PUSH], (0, 1, "Success"))
    at(rules, 1)
    rules.engine.settle()
    rules.put(CHAIN_ID, "Root", metadata([dedup(interval=20), PUSH], (0, 1, "Success")), is_root=True)
    assert values(await rules.wait(11)) == []
    assert values(await rules.wait(10)) == [1]


async def test_what_waits_for_a_node_that_is_gone_is_dropped_and_counted():
    rules = Rules([dedup(), PUSH], (0, 1, "Success"))
    at(rules, 1)
    rules.engine.settle()
    rules.put(CHAIN_ID, "Root", metadata([PUSH]), is_root=True)
    assert values(await rules.wait(60)) == []
    assert rules.local == {}
    assert rules.counters.all()["rules.kept_dropped"] == 1


async def test_a_delayed_message_comes_once_after_its_time_also_over_a_restart():
    rules = Rules([delay(), PUSH], (0, 1, "Success"))
    at(rules, 1)
    await rules.wait(2)
    rules.restart()
    at(rules, 2)
    assert values(await rules.wait(2.9)) == []
    assert values(await rules.wait(0.2)) == [1]
    assert values(await rules.wait(10)) == [2]
    assert rules.local == {}


async def test_a_clock_that_was_set_back_does_not_hold_a_message_longer_than_asked():
    rules = Rules([delay(), PUSH], (0, 1, "Success"))
    at(rules, 1)
    rules.clock._now_ms -= 3_600_000
    rules.restart()
    assert values(await rules.wait(5)) == [1]


async def test_a_delay_from_the_metadata():
    pattern = {"useMetadataPeriodInSecondsPatterns": True, "periodInSecondsPattern": "${wait}"}
    rules = Rules([delay(**pattern), PUSH], (0, 1, "Success"))
    assert "whole number" in at(rules, 1).errors[0]
    rules.run({"v": 7}, metadata={"wait": "3"})
    assert values(await rules.wait(3)) == [7]


async def test_all_without_a_type_does_not_start():
    rules = Rules([dedup(strategy="ALL"), PUSH], (0, 1, "Success"))
    assert "outMsgType" in rules.texts()[0]
