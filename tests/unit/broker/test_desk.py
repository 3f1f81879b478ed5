"""What all connections share."""

from gateway.broker.desk import Complaints
from gateway.domain.entity import Device, time_uuid
from tests.fakes.clock import FakeClock


def test_a_topic_that_the_device_chose_makes_no_line_of_its_own_in_the_log(caplog):
    complaints = Complaints(FakeClock())
    complaints.bad(Device(id=time_uuid(), name="d", type="t"), "sensors/x\nERROR all is lost", "not JSON")
    assert "sensors/x\\nERROR" in caplog.text
    assert "\nERROR" not in caplog.text
