"""What all connections share."""

from gateway.broker.desk import Complaints
from gateway.domain.entity import Device, time_uuid
from tests.fakes.clock import FakeClock


def test_a_topic_that_the_device_chose_makes_no_line_of_its_own_in_the_log(caplog):
    complaints = Complaints(FakeClock())
    complaints.bad(Device(id=time_uuid(), name="d", type="t"), "sensors/x\nERROR all is lost", "not JSON")
    assert "sensors/x\\nERROR" in caplog.text
    assert "\nERROR" not in caplog.text


def test_each_kind_of_trouble_has_its_line_and_none_has_a_second_one(caplog):
    clock = FakeClock()
    complaints, device = Complaints(clock), Device(id=time_uuid(), name="d", type="t")
    for _ in range(3):
        complaints.bad(device, "t", "reason", "will")
        complaints.bad(device, "t", "not JSON")
        complaints.refused(device, "reads too slowly")
    assert [line for line in caplog.messages if "reads too slowly" in line] == [
        "device 'd': reads too slowly; further ones are only counted"
    ]
    assert len(caplog.messages) == 3
