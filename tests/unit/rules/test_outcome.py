"""What an outcome holds, and what it costs nothing to hold."""

import pytest

from gateway.domain.changes import SaveSetting
from gateway.ports import Outcome

LISTS = ("calls", "replies", "notices", "errors", "emitted", "waits")


@pytest.mark.parametrize("name", LISTS)
def test_a_list_is_there_when_somebody_looks_and_stays_the_same(name):
    outcome = Outcome()
    assert not outcome.has_more
    getattr(outcome, name).append("one")
    assert outcome.has_more
    assert getattr(outcome, name) == ["one"]
    assert all(getattr(outcome, other) == [] for other in LISTS if other != name)


def test_no_two_outcomes_share_a_list():
    one, other = Outcome(), Outcome()
    one.errors.append("failed")
    one.changes.append(SaveSetting("a", 1))
    assert (other.errors, other.changes) == ([], [])


def test_what_is_given_counts_as_more():
    assert Outcome(waits=[lambda: None]).has_more
    assert Outcome(notices=[]).has_more
    assert not Outcome(changes=[SaveSetting("a", 1)]).has_more


def test_outcomes_are_equal_when_they_hold_the_same():
    assert Outcome() == Outcome(notices=[])
    assert Outcome([SaveSetting("a", 1)]) == Outcome([SaveSetting("a", 1)]) != Outcome()
    failed = Outcome()
    failed.errors.append("Root / n: failed")
    assert failed != Outcome()
    assert repr(failed) == "Outcome(errors=['Root / n: failed'])"


def test_a_wrong_name_is_an_error():
    with pytest.raises(AttributeError, match="no 'error'"):
        _ = Outcome().error
