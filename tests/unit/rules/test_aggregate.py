"""The aggregate node against a naive model; its restarts, its bounds, its times."""

import math
import random
from zoneinfo import ZoneInfo

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.domain.changes import DropLocal, SaveLocal
from gateway.domain.entity import EntityId
from gateway.rules.folding import ACCURACY, EXACT, FUNCTIONS, PERCENTILES, Series
from gateway.rules.spans import Spans
from tests.unit.rules.kit import DEVICE, PUSH, Rules, bodies, message

NOW_MS = 1_700_000_000_000
START_MS = NOW_MS - NOW_MS % 10_000 + 10_000
OTHER = EntityId("DEVICE", DEVICE.id.__class__(int=7))
NODE = "edge.gateway.rules.AggregateNode"


def rules(**config):
    config = {"windowSeconds": 10, "functions": ["avg", "count"]} | config
    return Rules([(NODE, "windows", config), PUSH], (0, 1, "Success"))


def post(house, values, ts_ms, originator=DEVICE, **more):
    told = {"deviceName": "Press 1", "ts": str(ts_ms)} | more
    return house.commit(house.engine.process(message(values, metadata=told, originator=originator)))


async def ended(house, seconds):
    return [body for outcome in await house.wait(seconds) for body in bodies(outcome)]


def naive(items, functions):
    """Items are (time, value) of one key, in the order of arrival."""
    values = [value for _, value in items]
    first = min(range(len(items)), key=lambda index: items[index][0])
    last = max(range(len(items)), key=lambda index: (items[index][0], index))
    mean = math.fsum(values) / len(values)
    every = {
        "min": min(values),
        "max": max(values),
        "avg": mean,
        "sum": math.fsum(values),
        "count": len(values),
        "first": values[first],
        "last": values[last],
        "delta": values[last] - values[first],
        "std": math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values)),
    }
    ordered = sorted(values)
    every |= {name: ordered[max(1, math.ceil(p * len(values) / 100)) - 1] for name, p in PERCENTILES.items()}
    return {name: every[name] for name in functions}


numbers = st.one_of(
    st.integers(-(2**63), 2**63),
    st.floats(-1e6, 1e6, allow_subnormal=False),
    st.sampled_from([0, 0.0, -1, 1, 0.1]),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9_999), numbers), min_size=1, max_size=60))
def test_a_series_is_what_a_naive_model_says(items):
    series = Series("k", 0, True)
    for ts_ms, value in items:
        series.add(ts_ms, value)
        if series.count % 7 == 0 and series.sample is not None and not series.sample.sealed:
            series = Series.of(orjson.loads(orjson.dumps(series.json())), 0)
    found, wanted = series.results(FUNCTIONS), naive(items, FUNCTIONS)
    scale = max(abs(float(value)) for _, value in items)
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, rel=1e-9, abs=1e-9 * max(scale, 1e-9)), name


@pytest.mark.parametrize("seed", range(3))
def test_percentiles_of_many_values_are_close_to_one_that_was_measured(seed):
    rng = random.Random(seed)
    items = [(n, rng.lognormvariate(0, 1) * rng.choice((-1, 1, 1))) for n in range(3_000)]
    series = Series("k", 0, True)
    for ts_ms, value in items:
        series.add(ts_ms, value)
    for name, value in naive(items, PERCENTILES).items():
        assert series.results([name])[name] == pytest.approx(value, rel=ACCURACY * 1.01)


@pytest.mark.parametrize("seed", range(6))
async def test_restarts_change_nothing(seed):
    """Random orders, late data, batches, two devices, keys of all kinds; one of two houses restarts now and then."""
    rng = random.Random(seed)
    config = {"functions": list(FUNCTIONS), "keepOpenSeconds": rng.choice([0, 3]), "maxOpenWindows": 500}
    steady, restarted = rules(**config), rules(**config)
    model: dict[tuple[EntityId, int, str], list[tuple[int, float]]] = {}
    told: list[list] = [[], []]
    for _ in range(250 if seed else 2 * EXACT):
        away_ms = rng.choice([0, 0, 0, rng.randrange(-2_500, 2_500), rng.randrange(-60_000, -50_000)])
        ts_ms = steady.clock.now_ms() + away_ms
        originator = rng.choice((DEVICE, OTHER)) if seed else DEVICE
        values = {
            key: rng.choice([rng.randrange(100), rng.gauss(20, 5), rng.gauss(20, 5), "text", True, {"a": 1}])
            for key in rng.sample("abcdefg", rng.randrange(1, 5))
        }
        sets = [(ts_ms + n, values) for n in range(rng.choice([1] * 9 + [200]))]
        body = values if len(sets) == 1 else [{"ts": at_ms, "values": values} for at_ms, values in sets]
        for house in (steady, restarted):
            post(house, body, ts_ms, originator)
        for at_ms, _ in sets:
            for key, value in values.items():
                if type(value) in (int, float):
                    model.setdefault((originator, at_ms - at_ms % 10_000, key), []).append((at_ms, value))
        wait_s = rng.choice([0, 0, 0.05, 0.4])
        for number, house in enumerate((steady, restarted)):
            told[number] += await ended(house, wait_s)
        if rng.random() < 0.1:
            restarted.restart()
    for number, house in enumerate((steady, restarted)):
        told[number] += await ended(house, 100)
    assert told[0] == told[1]
    assert sum(value for body in told[0] for key, value in body["data"].items() if key.endswith("_count")) == sum(
        map(len, model.values())
    )
    assert restarted.local == {}


async def test_live_windows_are_the_model_s():
    house, rng, model, told = rules(functions=list(FUNCTIONS)), random.Random(1), {}, []
    for _ in range(120):
        ts_ms, value = house.clock.now_ms(), rng.gauss(20, 5)
        post(house, {"t": value}, ts_ms)
        model.setdefault(ts_ms - ts_ms % 10_000, []).append((ts_ms, value))
        told += await ended(house, 0.321)
    told += await ended(house, 20)
    assert [body["ts"] for body in told] == sorted(model)
    for body in told:
        wanted = naive(model[body["ts"]], FUNCTIONS)
        assert body["data"] == {f"t_{name}": pytest.approx(value) for name, value in wanted.items()}


async def test_the_end_belongs_to_the_next_window_and_milliseconds_count():
    house = rules(functions=["count", "first", "last"])
    for offset_ms in (0, 9_999, 10_000, 10_001):
        post(house, {"t": offset_ms}, START_MS + offset_ms)
    found = await ended(house, 60)
    assert [(body["ts"] - START_MS, body["data"]["t_first"], body["data"]["t_last"]) for body in found] == [
        (0, 0, 9_999),
        (10_000, 10_000, 10_001),
    ]


async def test_what_comes_too_late_is_counted_and_goes_on_as_raw():
    house = rules(late="DROP", keepOpenSeconds=5)
    await house.wait((START_MS + 10_000 + 4_999 - NOW_MS) / 1000)
    post(house, {"t": 1}, START_MS)
    assert house.counters.get("rules.aggregate_late") == 0
    await house.wait(1)
    post(house, {"t": 2}, START_MS)
    assert house.counters.get("rules.aggregate_late") == 1
    assert await ended(house, 60) == []


async def test_a_device_whose_clock_is_behind_fills_windows_of_its_own():
    house, told = rules(), []
    for _ in range(30):
        post(house, {"t": 1}, house.clock.now_ms() - 300_000)
        told += await ended(house, 1)
    told += await ended(house, 60)
    assert sum(body["data"]["t_count"] for body in told) == 30
    assert sorted({body["ts"] % 10_000 for body in told}) == [0]
    assert len(told) == len({body["ts"] for body in told}) == 3 + bool(NOW_MS % 10_000)


async def test_open_windows_are_bounded():
    house = rules(maxOpenWindows=10)
    for number in range(60):
        for _ in range(3):
            post(house, {"t": number}, START_MS, EntityId("DEVICE", DEVICE.id.__class__(int=number + 1)))
        if number % 5 == 4:
            await house.wait(0.01)
        if number == 30:
            house.restart()
        assert house.engine.due_s < 61
        assert sum("." not in key.rpartition("\x1f")[2] for _, key in house.local) <= 20
    assert house.counters.get("rules.aggregate_ended_early") >= 40
    await house.wait(60)
    assert house.local == {}


async def test_nonsense_of_the_future_holds_up_nothing():
    house = rules()
    for year in range(40):
        post(house, {"t": 1}, START_MS + 31_536_000_000 * (1 + year))
        await house.wait(0.01)
    now_ms = house.clock.now_ms()
    post(house, {"t": 5}, now_ms)
    assert {"t_avg": 5.0, "t_count": 1} in [body["data"] for body in await ended(house, 20)]
    assert house.counters.get("rules.aggregate_ended_early") >= 24


async def test_a_clock_that_is_set_ends_the_windows_within_a_minute():
    house = rules()
    post(house, {"t": 1}, START_MS + 86_400_000)
    house.clock._now_ms += 2 * 86_400_000
    assert len(await ended(house, 61)) == 1


async def test_a_chain_that_is_sent_again_goes_on_where_it_was():
    house = rules()
    post(house, {"t": 1}, START_MS)
    house.restart()
    house._sent = [
        (*sent[:2], orjson.loads(orjson.dumps(sent[2]).replace(b'"avg"', b'"max"')), True) for sent in house._sent
    ]
    house.restart()
    post(house, {"t": 3}, START_MS)
    assert [body["data"] for body in await ended(house, 60)] == [{"t_avg": 2.0, "t_count": 2}]


async def test_one_body_with_many_times_writes_each_row_once():
    house = rules(functions=["p50", "avg"])
    body = [{"ts": START_MS + n, "values": {"t": n}} for n in range(1000)]
    changes = post(house, body, START_MS).changes
    keys = [change.key for change in changes if isinstance(change, SaveLocal)]
    assert len(keys) == len(set(keys)) <= 2 + EXACT // 16 + 1
    assert [round(body["data"]["t_p50"]) for body in await ended(house, 60)] == [pytest.approx(499, rel=0.01)]
    assert house.local == {}


def test_a_reading_rewrites_little():
    house = rules(functions=["min", "max", "avg", "p95"])
    written = 0
    for number in range(1_000):
        for change in post(house, {"t": 20 + number % 7 / 10}, START_MS + number).changes:
            if isinstance(change, SaveLocal):
                written += len(change.body)
            assert not isinstance(change, DropLocal) or number % EXACT == EXACT - 1
    assert written / 1_000 < 250


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"functions": ["median"]}, "functions: Value error, 'median' is not known; there are min, max"),
        ({"windowSeconds": 0}, "windowSeconds"),
        ({"timeZone": "Berlin"}, "timeZone: 'Berlin' is not known here; names are like Europe/Berlin"),
        ({"resultKey": "{key}"}, "resultKey needs {key}, and with several functions {function}"),
    ],
)
def test_a_wrong_configuration_says_what_would_be_right(config, text):
    assert any(text in problem for problem in rules(**config).texts())


def test_days_of_a_time_zone():
    berlin = ZoneInfo("Europe/Berlin")
    hour, day = Spans(3_600_000, berlin), Spans(86_400_000, berlin)
    # 2024-03-31 has 23 hours there, 2024-10-27 has 25; midnights are 23:00 and 22:00 UTC of the day before.
    assert day.of(1_711_882_800_000) == (1_711_839_600_000, 1_711_922_400_000)
    assert day.of(1_730_030_400_000) == (1_729_980_000_000, 1_730_070_000_000)
    assert hour.of(1_711_882_800_001) == (1_711_882_800_000, 1_711_886_400_000)
    assert Spans(7 * 3_600_000).of(23 * 3_600_000) == (21 * 3_600_000, 86_400_000)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 4_102_444_800_000),
    st.integers(1_000, 86_400_000),
    st.sampled_from([None, "Europe/Berlin", "America/Havana", "Asia/Kathmandu", "Pacific/Apia", "America/Sao_Paulo"]),
)
def test_each_time_is_in_its_window(ts_ms, size_ms, zone):
    begin_ms, end_ms = Spans(size_ms, zone and ZoneInfo(zone)).of(ts_ms)
    assert begin_ms <= ts_ms < end_ms
    assert end_ms - begin_ms <= size_ms + (3_600_000 if size_ms > 3_600_000 else 0)
