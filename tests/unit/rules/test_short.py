"""Short forms: what they make, what it does, what is said of wrong ones."""

from pathlib import Path

import orjson
import pytest
import yaml
from click.testing import CliRunner

from gateway.cli import main
from gateway.config import GatewayConfig, RulesConfig, parse_config
from gateway.errors import ConfigError
from gateway.rules.short import short_chain
from gateway.trial import Trial

SAMPLE = Path(__file__).parents[3] / "config" / "rules" / "short.yaml"


def config(text):
    return parse_config(GatewayConfig, yaml.safe_load(text), "").rules


def short(text):
    return config(f"rules:\n  short:\n{text}")


class House:
    def __init__(self, rules):
        self.trial = Trial(rules)

    async def __aenter__(self):
        await self.trial.__aenter__()
        await self.trial.set_up({"device": "Device", "profile": "boiler"})
        await self.trial.set_up({"device": "Meter-1", "profile": "meter"})
        assert self.trial.engine.problems() == []
        return self

    async def __aexit__(self, *error):
        await self.trial.__aexit__(*error)

    async def post(self, values, originator="Device"):
        return pushed(await self.trial.send({"msg": values, "originator": originator}))

    async def wait(self, seconds):
        return pushed(await self.trial.send({"wait_s": seconds}))


def pushed(result):
    assert "errors" not in result, result["errors"]
    return (
        [one["body"]["data"] if "body" in one else one["action"] for one in result.get("pushed", [])],
        [one["values"] for one in result.get("saved", [])],
    )


async def test_only_what_changes_goes_up_and_everything_is_kept():
    rules = short("    - steps: [{on_change: {keys: [t], by: 0.5, longest_silence_s: 60}}]")
    async with House(rules) as house:
        assert await house.post({"t": 20, "u": 1}) == ([{"t": 20, "u": 1}], [{"t": 20, "u": 1}])
        assert await house.post({"t": 20.5}) == ([], [{"t": 20.5}])
        assert await house.post({"t": 20.4, "u": 1}) == ([{"u": 1}], [{"t": 20.4, "u": 1}])
        assert (await house.post({"t": 20.6}))[0] == [{"t": 20.6}]  # slow drift passes at last
        assert (await house.post({"t": "off"}))[0] == [{"t": "off"}]
        assert (await house.post({"t": "off"}))[0] == []
        await house.wait(60)
        assert (await house.post({"t": "off"}))[0] == [{"t": "off"}]
        assert (await house.post({"t": 1}, "Meter-1"))[0] == [{"t": 1}]


async def test_a_share_of_the_last_value_and_nothing_kept():
    async with House(short("    - steps: [{on_change: {by: 10 %, rest: drop}}]")) as house:
        assert [await house.post({"t": value}) for value in (-100, -109, -111)] == [
            ([{"t": -100}], [{"t": -100}]),
            ([], []),
            ([{"t": -111}], [{"t": -111}]),
        ]


@pytest.mark.parametrize("raw", ["save", "drop"])
async def test_a_summary_of_a_window(raw):
    rules = short(
        f"    - profiles: [boiler]\n      steps: [{{every: {{seconds: 60, send: [avg, count], raw: {raw}}}}}]"
    )
    async with House(rules) as house:
        for value in (1, 2, 6):
            assert await house.post({"t": value}) == ([], [{"t": value}] if raw == "save" else [])
        assert await house.wait(120) == ([{"t_avg": 3.0, "t_count": 3}], [{"t_avg": 3.0, "t_count": 3}])
        assert await house.post({"t": 1}, "Meter-1") == ([{"t": 1}], [{"t": 1}])


async def test_an_alarm_with_hysteresis():
    rules = short('    - steps: [{alarm: {key: t, when: "> 90", clear_when: "< 85", type: Hot, severity: MAJOR}}]')
    async with House(rules) as house:
        told = [(await house.post({"t": value}))[0] for value in (90, 91, 95, 86, 91, 84, 84, "x")]
    assert [[one for one in line if isinstance(one, str)] for line in told] == [
        [], ["ADDED"], [], [], [], ["ALARM_CLEAR"], [], [],
    ]  # fmt: skip
    assert [sum(isinstance(one, dict) for one in line) for line in told] == [1] * 8


async def test_an_alarm_that_has_to_last():
    async with House(short('    - steps: [{alarm: {key: t, when: ">= 3", for_s: 30}}]')) as house:
        await house.post({"t": 3})
        await house.wait(29)
        await house.post({"t": 2})  # not long enough
        assert (await house.wait(60))[0] == []
        await house.post({"t": 4})
        await house.wait(15)
        await house.trial.send({"restart": True})
        assert (await house.wait(14.9))[0] == []
        assert (await house.wait(0.2))[0] == ["ADDED"]  # even though it says no more
        assert (await house.post({"t": 5}))[0] == [{"t": 5}]
        assert "ALARM_CLEAR" in (await house.post({"t": 1}))[0]


async def test_steps_act_in_their_order():
    steps = "[{every: {seconds: 10, send: [max]}}, {on_change: {by: 1}}, {alarm: {key: t_max, when: '> 5'}}]"
    async with House(short(f"    - steps: {steps}")) as house:
        told = []
        for value in (3, 3.5, 9):
            await house.post({"t": value})
            told.append((await house.wait(10.01))[0])
    assert [sorted(line, key=str) for line in told] == [[{"t_max": 3}], [], ["ADDED", {"t_max": 9}]]


async def test_attributes_and_calls_go_the_ways_of_the_built_in_chain():
    async with House(short("    - steps: [{on_change: {by: 1}}]")) as house:
        result = await house.trial.send({"msg": {"v": 1}, "type": "POST_ATTRIBUTES_REQUEST"})
        assert result["attributes"]
        assert result["pushed"]


def test_the_chain_stands_beside_the_cloud_s_unless_it_is_told_otherwise():
    line = "    - steps: [{on_change: {by: 1}}]"
    assert short(line).prefer_cloud is False
    assert config(f"rules:\n  prefer_cloud: true\n  short:\n{line}").prefer_cloud is True
    assert RulesConfig().prefer_cloud is True


@pytest.mark.parametrize(
    ("text", "where", "problem"),
    [
        ("- steps: []", "rules.short[0].steps", "must not be empty"),
        ("- steps: [{every: {seconds: 60, send: [mean]}}]", "short[0].steps[0].every.send", "'mean' is not known; there are min"),
        ("- steps: [{every: {second: 60}}]", "short[0].steps[0].every.second", "did you mean 'seconds'?"),
        ("- steps: [{every: {seconds: 60, time_zone: Berlin}}]", "every.time_zone", "names are like Europe/Berlin"),
        ("- steps: [{alarm: {key: t, when: hot}}]", "short[0].steps[0].alarm.when", "an operator (> >= < <= == !=) and a number"),
        ("- steps: [{alarm: {key: t, when: '> 9', clear_when: '< 10'}}]", "steps[0].alarm", "must be below the limit of when"),
        ("- steps: [{alarm: {key: t, when: '> 9', severity: HIGH}}]", "alarm.severity", "'CRITICAL'"),
        ("- steps: [{on_change: {by: 2 pct}}]", "on_change.by", "a share of the last value ('2 %')"),
        ("- steps: [{on_change: {}, every: {seconds: 1}}]", "short[0].steps[0]", "a step is one of: alarm, every, on_change"),
        ("- steps: [{}]", "short[0].steps[0]", "a step is one of"),
        ("- steps: [{on_change: {}}]\n    - steps: [{on_change: {}}]", "rules", "short[0] is for all devices"),
    ],
)  # fmt: skip
def test_a_wrong_rule_says_where_and_what_would_be_right(text, where, problem):
    with pytest.raises(ConfigError) as caught:
        short(f"    {text}")
    assert where in caught.value.where
    assert problem in caught.value.problem


def test_two_roots_are_one_too_many():
    with pytest.raises(ConfigError, match="leave one of them out"):
        config("rules:\n  root_chain: a.json\n  short: [{steps: [{on_change: {}}]}]")


async def test_the_sample_builds_a_chain_that_loads(tmp_path):
    path = tmp_path / "chain.json"
    result = CliRunner().invoke(main, ["rules", "build", "-c", str(SAMPLE), "--out", str(path)])
    assert result.exit_code == 0, result.output
    assert "does not open in ThingsBoard" in result.output
    rules = config(SAMPLE.read_text())
    assert orjson.loads(path.read_bytes()) == short_chain(rules.short)
    async with House(RulesConfig(root_chain=path)) as house:
        assert (await house.post({"energy": 4}, "Meter-1"))[0] == []
        assert (await house.post({"energy": 4}, "Device"))[0] == []


def test_alarms_alone_are_stock_nodes():
    chain = short_chain(short('    - profiles: [a, "b\\"c"]\n      steps: [{alarm: {key: t, when: "> 1"}}]').short)
    assert {node["type"].rpartition("engine.")[0] for node in chain["metadata"]["nodes"]} == {"org.thingsboard.rule."}


def test_nothing_is_remarked_about_the_chain_of_the_sample(tmp_path):
    path = tmp_path / "chain.json"
    CliRunner().invoke(main, ["rules", "build", "-c", str(SAMPLE), "--out", str(path)])
    result = CliRunner().invoke(main, ["rules", "check", str(path)])
    assert (result.exit_code, result.output) == (0, "nothing is wrong\n")
