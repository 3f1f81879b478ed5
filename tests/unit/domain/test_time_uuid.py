"""Time-based ids: their time, their order, and that they are ids like any other."""

import copy
import pickle
import time
from uuid import RFC_4122, UUID

import pytest

from gateway.domain import entity
from gateway.domain.entity import time_uuid

EPOCH = 0x01B21DD213814000


def test_an_id_is_of_version_1_and_tells_when_it_was_made() -> None:
    before = time.time_ns() // 100
    made = time_uuid()
    assert (made.version, made.variant) == (1, RFC_4122)
    assert before <= made.time - EPOCH <= time.time_ns() // 100 + 1_000


@pytest.mark.parametrize("since_epoch", [0, (1 << 32) - EPOCH % (1 << 32) - 2, (1 << 48) - 3, (1 << 60) - 5 - EPOCH])
def test_ids_grow_by_one_step_where_the_clock_stands_still(monkeypatch: pytest.MonkeyPatch, since_epoch: int) -> None:
    monkeypatch.setattr(entity, "_last_ticks", 0)
    monkeypatch.setattr(time, "time_ns", lambda: since_epoch * 100)
    ids = [time_uuid() for _ in range(4)]
    assert [one.time for one in ids] == [EPOCH + since_epoch + step for step in range(4)]


def test_an_id_can_be_compared_copied_and_kept() -> None:
    made = time_uuid()
    same = UUID(str(made))
    assert (made, hash(made), made.is_safe, made.bytes) == (same, hash(same), same.is_safe, same.bytes)
    assert pickle.loads(pickle.dumps(made)) == made == copy.deepcopy(made)
    with pytest.raises(TypeError):
        made.int = 1  # type: ignore[misc]
