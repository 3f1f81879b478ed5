from dataclasses import replace
from hashlib import sha3_256

import pytest

from gateway.devices import Found, State, found_devices
from gateway.devices.founding import basic_credentials, token_credentials
from gateway.domain.changes import AppendEvent, SaveDevice, SaveProfile
from gateway.domain.entity import Device, DeviceProfile, time_uuid
from gateway.errors import ConfigError
from gateway.ports import Snapshot


def apply(wanted, state):
    changes = found_devices(wanted, state, 1000)
    state.apply(changes)
    return changes


def actions(changes):
    return [change.event.action for change in changes if isinstance(change, AppendEvent)]


def test_a_new_device_gets_profile_token_and_an_announcement():
    state = State(Snapshot())
    changes = apply([Found(name="Pump", profile="pump")], state)
    assert [type(change) for change in changes] == [SaveProfile, SaveDevice, AppendEvent]
    device = state.device_named("Pump")
    assert device is not None
    assert device.profile_id == state.profile_named("pump").id
    assert device.credentials is not None
    assert len(device.credentials.credentials_id) == 20
    assert actions(changes) == ["ADDED"]


def test_the_same_configuration_again_changes_nothing():
    state = State(Snapshot())
    wanted = [Found(name="Pump", profile="pump"), Found(name="Fan", credentials=token_credentials("x"))]
    apply(wanted, state)
    assert apply(wanted, state) == []


def test_no_profile_named_default_is_made():
    state = State(Snapshot())
    apply([Found(name="Fan")], state)
    assert state.profile_named("default") is None
    assert state.device_named("Fan").type == "default"


def test_a_new_token_is_announced():
    state = State(Snapshot())
    apply([Found(name="Fan", credentials=token_credentials("old"))], state)
    assert actions(apply([Found(name="Fan", credentials=token_credentials("new"))], state)) == ["CREDENTIALS_UPDATED"]
    assert state.device_by_credentials("old") is None


def test_credentials_changed_in_the_cloud_do_not_come_back_with_the_next_start(caplog):
    state = State(Snapshot())
    wanted = [Found(name="Fan", credentials=token_credentials("leaked"))]
    apply(wanted, state)
    device = state.device_named("Fan")
    assert device is not None
    state.apply([SaveDevice(replace(device, credentials=token_credentials("fresh")))])
    assert apply(wanted, state) == []
    assert state.device_by_credentials("leaked") is None
    assert "devices[Fan]: the cloud has given it other credentials" in caplog.text
    assert "leaked" not in caplog.text
    apply([Found(name="Fan", credentials=token_credentials("newest"))], state)
    assert state.device_by_credentials("newest") is not None


def test_a_new_label_is_announced():
    state = State(Snapshot())
    apply([Found(name="Fan")], state)
    assert actions(apply([Found(name="Fan", label="Roof")], state)) == ["UPDATED"]


def test_a_device_that_the_cloud_assigned_is_taken_over_not_doubled():
    cloud = Device(
        id=time_uuid(),
        name="Pump",
        type="pump",
        json={"name": "Pump"},
        credentials=token_credentials("t"),
        origin="CLOUD",
    )
    state = State(Snapshot(devices=[cloud], profiles=[DeviceProfile(id=time_uuid(), name="pump")]))
    changes = apply([Found(name="Pump", profile="pump")], state)
    assert actions(changes) == []
    assert state.device_named("Pump") == replace(cloud, local_name="Pump")


def test_two_devices_with_one_token_are_refused():
    with pytest.raises(ConfigError, match="same credentials"):
        found_devices([Found(name=n, credentials=token_credentials("x")) for n in ("A", "B")], State(Snapshot()), 0)


def test_basic_credentials_ids():
    # SHA3-256 of the client id, of client id + '|' + user name; a user name alone stays plain (device API §1.2).
    assert basic_credentials("c7", None, None).credentials_id == sha3_256(b"c7").hexdigest()
    assert basic_credentials("c7", "u7", "p7").credentials_id == sha3_256(b"c7|u7").hexdigest()
    assert basic_credentials(None, "u7", "p7").credentials_id == "u7"
    assert basic_credentials(None, "u7", "p7").value == '{"clientId":null,"userName":"u7","password":"p7"}'
