"""The cloud drops an attribute that is not newer than the one it has: each event is later than the one before."""

from __future__ import annotations

import pytest

from gateway.domain.changes import SaveAttributes, SaveSetting
from gateway.domain.entity import EntityId
from gateway.domain.telemetry import Attribute
from gateway.ports import attributes_mark
from tests.unit.rules.kit import DEVICE, PUSH, Rules, bodies, message

ATTRIBUTES = "POST_ATTRIBUTES_REQUEST"
SAVE_CLIENT = ("telemetry.TbMsgAttributesNode", "save", {"scope": "CLIENT_SCOPE"})


def times(rules: Rules, *messages: tuple[int, str]) -> list[int]:
    """The times of the events of messages with these times and scopes."""
    made = [message({"n": 1}, ATTRIBUTES, {"ts": str(ts), "scope": scope}) for ts, scope in messages]
    return [body["ts"] for one in made for body in bodies(rules.engine.process(one))]


@pytest.mark.parametrize("type_", [ATTRIBUTES, "ATTRIBUTES_UPDATED"])
def test_two_messages_of_one_millisecond_go_up_one_after_the_other(type_):
    rules = Rules([PUSH])
    sent = [bodies(rules.run({"n": n}, type_, metadata={"ts": "5000"}))[0] for n in range(3)]
    assert [(body["kv"]["n"], body["ts"]) for body in sent] == [(0, 5000), (1, 5001), (2, 5002)]


def test_one_message_that_is_pushed_twice_has_two_times():
    rules = Rules([PUSH, (PUSH[0], "again", {})], (0, 1, "Success"))
    assert times(rules, (5000, "SERVER_SCOPE")) == [5000, 5001]


def test_what_is_older_than_the_event_before_is_later_all_the_same():
    assert times(Rules([PUSH]), (9000, "SERVER_SCOPE"), (8000, "SERVER_SCOPE")) == [9000, 9001]


def test_scopes_and_entities_have_times_of_their_own():
    rules = Rules([PUSH])
    assert times(rules, (9000, "SERVER_SCOPE"), (8000, "SHARED_SCOPE")) == [9000, 8000]
    other = message({"n": 1}, ATTRIBUTES, {"ts": "7000"}, EntityId("ASSET", DEVICE.id))
    assert bodies(rules.engine.process(other))[0]["ts"] == 7000


def test_after_a_start_with_the_clock_set_back_an_event_is_later_than_what_is_stored():
    rules = Rules([PUSH])
    rules.state.attributes[DEVICE, "CLIENT_SCOPE", "a"] = Attribute(9000, 1)
    rules.state.attributes[DEVICE, "CLIENT_SCOPE", "b"] = Attribute(9500, 1)
    rules.state.attributes[DEVICE, "SHARED_SCOPE", "c"] = Attribute(9900, 1)
    assert times(rules, (8000, "CLIENT_SCOPE"), (8000, "CLIENT_SCOPE")) == [9501, 9502]


def test_a_nonsensical_time_is_not_the_beginning_of_more_of_them():
    assert times(Rules([PUSH]), (2**62, "SERVER_SCOPE"), (8000, "SERVER_SCOPE")) == [2**62, 8000]


def test_client_attributes_are_stored_with_the_time_that_the_next_ones_must_exceed():
    rules = Rules([SAVE_CLIENT, PUSH], (0, 1, "Success"))
    later_ms = rules.clock.now_ms() + 5_000
    outcome = rules.run({"n": 1}, ATTRIBUTES, metadata={"ts": str(later_ms), "scope": "CLIENT_SCOPE"})
    assert [change.ts_ms for change in outcome.changes if isinstance(change, SaveAttributes)] == [later_ms]


def test_a_time_ahead_of_the_clock_is_remembered_across_a_restart():
    rules = Rules([PUSH])
    now_ms = rules.clock.now_ms()

    def marks(ts_ms: int) -> list[object]:
        outcome = rules.run({"n": 1}, ATTRIBUTES, metadata={"ts": str(ts_ms), "scope": "CLIENT_SCOPE"})
        return [change for change in outcome.changes if isinstance(change, SaveSetting)]

    assert marks(now_ms) == []
    assert marks(now_ms + 9_000) == [SaveSetting(attributes_mark(DEVICE, "CLIENT_SCOPE"), now_ms + 9_000)]
    assert marks(now_ms) == [SaveSetting(attributes_mark(DEVICE, "CLIENT_SCOPE"), now_ms + 9_001)]
