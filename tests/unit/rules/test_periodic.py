"""The generator keeps its rhythm; the same chain sent again goes on counting, another configuration begins anew."""

from tests.unit.rules.kit import CHAIN_ID, PUSH, Rules, bodies, metadata

BODY = "return {msg: {n: 1}, metadata: {}, msgType: 'POST_TELEMETRY_REQUEST'};"


def generator(**config):
    more = {"scriptLang": "JS", "jsScript": BODY, "originatorType": "DEVICE", **config}
    more.setdefault("originatorId", "0a1b2c30-4d5e-11ef-8a9b-0c1d2e3f4a5b")
    return ("debug.TbMsgGeneratorNode", "generator", more)


async def test_a_late_turn_does_not_move_the_following_ones_and_missed_ones_are_not_made_up_for():
    rules = Rules([generator(periodInSeconds=10), PUSH], (0, 1, "Success"))
    start_s = rules.clock.monotonic_s()
    await rules.wait(10)
    assert rules.engine.due_s == start_s + 20
    await rules.clock.advance(13)  # nobody had time
    assert rules.engine.fire() is not None
    assert rules.engine.due_s == start_s + 30
    await rules.clock.advance(34)
    assert rules.engine.fire() is not None
    assert rules.engine.fire() is None
    assert rules.engine.due_s == start_s + 60


async def test_another_configuration_counts_anew():
    rules = Rules([generator(msgCount=2), PUSH], (0, 1, "Success"))
    assert sum(len(bodies(out)) for out in await rules.wait(9)) == 2
    again = metadata([("filter.TbMsgTypeSwitchNode", "more", {}), generator(msgCount=2), PUSH], (1, 2, "Success"))
    rules.put(CHAIN_ID, "Root", again, is_root=True)
    assert await rules.wait(9) == []
    rules.put(CHAIN_ID, "Root", metadata([generator(msgCount=1), PUSH], (0, 1, "Success")), is_root=True)
    assert sum(len(bodies(out)) for out in await rules.wait(9)) == 1


async def test_failures_count_and_carry_an_empty_message():
    log = ("action.TbLogNode", "log", {})
    rules = Rules([generator(msgCount=2, jsScript="return 1;"), log], (0, 1, "Failure"))
    await rules.wait(60)
    assert rules.passed("log") == 2


def test_settings_that_cannot_work_are_told():
    def problem(**config):
        return Rules([generator(**config)]).texts()[0]

    assert "originatorId is missing" in problem(originatorId="")
    assert "originatorType 'ALARM' cannot be" in problem(originatorType="ALARM")
    assert "it has no script" in problem(jsScript="")


def test_an_older_generator_without_a_whole_originator_is_its_own():
    kind, name, config = generator(originatorId=None, originatorType="DEVICE")
    assert Rules([(kind, name, config, 1)]).texts() == []
