"""Several values of one device at once: what reaches the driver, and what callers hear of it."""

import pytest

from gateway.errors import RejectedError
from gateway.ports import Wrote
from tests.fakes.driver import FakeBus
from tests.unit.fieldbus.test_bus import Scene


class GroupBus(FakeBus):
    """Implements `GroupWriter`: two keys at a time. A text is refused; a number above 100 becomes 100."""

    def __init__(self):
        super().__init__()
        self.groups = []

    def together(self, device, keys):
        return [keys[at : at + 2] for at in range(0, len(keys), 2)]

    async def write_together(self, command):
        self.groups.append(dict(command.values))
        values, notes = {}, {}
        for key, value in command.values.items():
            if isinstance(value, str):
                error = RejectedError(f"{value!r} is not a number")
                if not values:
                    raise error
                return Wrote(values=values, notes=notes, error=error)
            values[key] = min(value, 100)
            if value > 100:
                notes[key] = f"{value} was written; the device holds 100"
        return Wrote(values=values, notes=notes)


@pytest.fixture
def scene():
    found = Scene()
    found.bus = GroupBus()
    found.bus.plan = []
    found.bus.values = {("A", key): 0 for key in "abcd"}
    found.plugins = {"fake": found.bus.plugin}
    return found


@pytest.mark.parametrize(
    ("method", "params", "groups", "result"),
    [
        ("set", {"a": 1, "c": 2, "b": 3}, [{"a": 1, "c": 2}, {"b": 3}], {"value": {"a": 1, "c": 2, "b": 3}}),
        ("a", 1, [{"a": 1}], {"value": 1}),
        ("set", {"key": "a", "value": 1}, [{"a": 1}], {"value": 1}),
        ("a", 120, [{"a": 120}], {"value": 100, "note": "120 was written; the device holds 100"}),
        (
            "set",
            {"a": 1, "b": 120},
            [{"a": 1, "b": 120}],
            {"value": {"a": 1, "b": 100}, "notes": {"b": "120 was written; the device holds 100"}},
        ),
        (
            "set",
            {"a": 1, "b": "x", "c": 3},
            [{"a": 1, "b": "x"}],
            {"error": "'x' is not a number; already written: a", "written": {"a": 1}},
        ),
        (
            "set",
            {"a": 1, "b": 2, "c": "x"},
            [{"a": 1, "b": 2}, {"c": "x"}],
            {"error": "'x' is not a number; already written: a, b", "written": {"a": 1, "b": 2}},
        ),
        ("set", {"a": "x", "b": 2}, [{"a": "x", "b": 2}], {"error": "'x' is not a number"}),
        ("a", "x", [{"a": "x"}], {"error": "'x' is not a number"}),
    ],
)
async def test_calls(scene, method, params, groups, result):
    async with scene.running():
        assert await scene.answer(method, params) == result
        assert scene.bus.groups == groups
        assert scene.counters.all().get("fieldbus.calls_failed", 0) == ("error" in result)


@pytest.mark.parametrize(
    ("method", "params", "error"),
    [
        ("set", "type=16int;address=6;", "set needs a text like type=16int"),
        ("set", "value=9;", "set needs a text like type=16int"),
        ("get", "type=16int;address=6;", "A has no point 'type=16int;address=6;'"),
    ],
)
async def test_texts_that_name_no_place(scene, method, params, error):
    async with scene.running():
        assert error in (await scene.answer(method, params))["error"]


async def test_a_text_names_the_place_and_is_answered_with_text(scene, monkeypatch):
    async def as_number(command):
        scene.bus.groups.append(dict(command.values))
        return Wrote(values={key: int(value) for key, value in command.values.items()})

    monkeypatch.setattr(scene.bus, "write_together", as_number)
    async with scene.running():
        assert await scene.answer("set", "type=16int;address=6;value=9;") == {"value": "9"}
        assert scene.bus.groups == [{"type=16int;address=6;": "9"}]


async def test_shared_attributes_that_change_together_are_written_together(scene, caplog):
    async with scene.running():
        session = scene.house.session("A")
        session.channel.send_attributes({"a": 1, "x": 5, "b": 120, "c": "no"})
        await scene.clock.advance(0)
        assert scene.bus.groups == [{"a": 1, "b": 120}, {"c": "no"}]
        assert [item.values for item in session.telemetry] == [{"a": 1, "b": 100}]
        assert scene.counters.all()["fieldbus.attributes_not_written"] == 1
        assert scene.counters.all()["fieldbus.attributes_not_taken"] == 1
    assert "A: shared attribute 'b': 120 was written; the device holds 100" in caplog.text
    assert "A: shared attribute 'c' is not written: 'no' is not a number" in caplog.text


async def test_what_was_written_before_a_failure_is_posted(scene):
    async with scene.running():
        session = scene.house.session("A")
        session.channel.send_attributes({"a": 1, "b": "no"})
        await scene.clock.advance(0)
        assert [item.values for item in session.telemetry] == [{"a": 1}]
        assert scene.counters.all()["fieldbus.attributes_not_written"] == 1
