"""Device API §1.12, §1.16: `count:seconds,count:seconds`, token buckets, all must pass; what is counted."""

import pytest

from gateway.config import RateLimitsConfig
from gateway.domain import rates as module
from gateway.domain.entity import time_uuid
from gateway.domain.rates import Limits, RateLimitedError, Rates, Sender, parse_rate

ONE, OTHER = time_uuid(), time_uuid()


def taken(rates, now_s, *, points=0, device_id=ONE, tries=100):
    """How many pass."""
    for count in range(tries):
        try:
            rates.take(device_id, points, now_s, is_gateway=False)
        except RateLimitedError:
            return count
    return tries


def test_all_buckets_must_have_room_and_fill_evenly():
    rates = Rates({Sender.DEVICE: Limits(messages="10:1,15:60")})
    assert taken(rates, 0.0) == 10
    assert taken(rates, 0.5) == 5  # half of the first is there again, and of the second five are left
    assert taken(rates, 1.5) == 0
    assert taken(rates, 4.6) == 1  # 15 in a minute: one every four seconds
    assert taken(rates, 4.6, device_id=OTHER) == 10


def test_data_points_count_with_their_message_and_a_refused_message_counts_nothing():
    rates = Rates({Sender.DEVICE: Limits(messages="1:60", telemetry_messages="3:60", telemetry_data_points="10:60")})
    assert taken(rates, 0.0, points=8, tries=1) == 1
    for _ in range(5):
        assert taken(rates, 0.0, points=3, tries=1) == 0
    assert taken(rates, 0.0, points=1) == 2
    assert taken(rates, 0.0) == 1  # everything else has a bucket of its own


def test_of_a_gateways_devices_each_has_its_share_and_all_together_theirs():
    rates = Rates({Sender.GATEWAY: Limits(messages="3:60"), Sender.SUB_DEVICE: Limits(messages="2:60")})
    gateway = time_uuid()
    for name in "AAB":
        rates.take_behind(gateway, name, 0, 0.0)
    for name, limit in (("A", "gateway_messages 3:60"), ("B", "gateway_messages 3:60")):
        with pytest.raises(RateLimitedError, match=limit):
            rates.take_behind(gateway, name, 0, 0.0)
    with pytest.raises(RateLimitedError, match="sub_device_messages 2:60"):
        rates.take_behind(time_uuid(), "A", 0, 0.0)
    rates.take(gateway, 0, 0.0, is_gateway=True)  # its own messages are counted by themselves


def test_who_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "MAX_SENDERS", 2)
    rates = Rates({Sender.DEVICE: Limits(messages="1:60")})
    for device_id in (ONE, OTHER, ONE):
        taken(rates, 0.0, device_id=device_id, tries=1)
    assert taken(rates, 0.0, device_id=time_uuid()) == 1
    assert taken(rates, 0.0) == 0  # used last, so kept
    assert taken(rates, 0.0, device_id=OTHER) == 1


@pytest.mark.parametrize("text", ["10", "10:0", "0:1", "a:1", "10:1,", "10:1.5", "-1:5", "1:2:3", "²:1"])
def test_what_is_no_rate_is_told(text):
    with pytest.raises(ValueError, match="is no rate: count:seconds, as in 10:1,300:60"):
        parse_rate(text)


def test_the_configuration_limits_nobody_unless_told():
    assert RateLimitsConfig().rates() is None
    rates = RateLimitsConfig(gateway_own_messages=" 5:1, 60:60 ").rates()
    assert rates.told(Sender.GATEWAY_OWN) == {
        "messages": "5:1,60:60",
        "telemetryMessages": None,
        "telemetryDataPoints": None,
    }
