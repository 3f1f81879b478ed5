"""The conversation's table, row by row."""

from pathlib import Path

import pytest

from gateway.cloud.session import (
    TRANSITIONS,
    Accepted,
    DownlinkReceived,
    EdgeChanged,
    Refusal,
    Refused,
    Session,
    State,
    StreamEnded,
    SyncApplied,
    Unknown,
    UplinkAnswered,
    states_page,
)
from gateway.domain.downlink import Downlink
from gateway.domain.entity import NULL_UUID, EdgeIdentity
from gateway.errors import TransientError
from gateway.ports import UplinkAnswer

WHO = EdgeIdentity(edge_id=NULL_UUID, tenant_id=NULL_UUID)
EVENTS = {
    "accepted": Accepted(WHO, 4_194_304),
    "refused": Refused(Refusal.BAD_CREDENTIALS),
    "edge changed": EdgeChanged(WHO),
    "downlink": DownlinkReceived(Downlink(1, [])),
    "sync applied": SyncApplied(),
    "answer": UplinkAnswered(1, UplinkAnswer(True)),
    "unknown": Unknown(),
    "end": StreamEnded(),
}
NEXT = {
    State.CONNECTING: {
        "accepted": State.SYNCING,
        "refused": State.CLOSED,
        "unknown": State.CONNECTING,
        "end": State.CLOSED,
    },
    State.SYNCING: {
        "edge changed": State.SYNCING,
        "downlink": State.SYNCING,
        "sync applied": State.READY,
        "unknown": State.SYNCING,
        "end": State.CLOSED,
    },
    State.READY: {
        "edge changed": State.READY,
        "downlink": State.READY,
        "sync applied": State.READY,
        "answer": State.READY,
        "unknown": State.READY,
        "end": State.CLOSED,
    },
    State.CLOSED: {"end": State.CLOSED},
}


@pytest.mark.parametrize("name", EVENTS)
@pytest.mark.parametrize("state", State)
def test_every_cell_of_the_table(state, name):
    session = Session()
    session.state = state
    expected = NEXT[state].get(name)
    if expected is None:
        with pytest.raises(TransientError, match=type(EVENTS[name]).__name__):
            session.on(EVENTS[name])
        assert session.state is State.CLOSED
    else:
        assert session.on(EVENTS[name]) is expected
        assert session.state is expected


def test_every_state_has_a_row_and_can_end():
    assert set(TRANSITIONS) == set(State)
    assert all(row[StreamEnded] is State.CLOSED for row in TRANSITIONS.values())


def test_the_diagram_in_the_documents_is_the_table():
    path = Path(__file__).resolve().parents[3] / "docs" / "cloud-states.md"
    assert path.read_text(encoding="utf-8") == states_page(), (
        "run: python -m gateway.cloud.session > docs/cloud-states.md"
    )
    assert "READY --> READY: EdgeChanged, DownlinkReceived, SyncApplied, UplinkAnswered, Unknown\n" in states_page()
