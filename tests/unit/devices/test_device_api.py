"""The device room's part of the device API: ids of calls, and what rules are told of a message."""

from gateway.domain.telemetry import TsKv
from tests.fakes.house import FakeChannel, House, settle


async def test_each_device_counts_its_calls_from_0():
    async with House() as house:
        channels = [FakeChannel(), FakeChannel()]
        devices = [house.add_device("a", "t1"), house.add_device("b", "t2")]
        for device, channel in zip(devices, channels, strict=True):
            house.inlet.open_session(device, channel).subscribe_rpc(True)
        for device in (devices[0], devices[0], devices[1], devices[0]):
            await house.commands.call_device(house.call(device))
            await settle()
        assert [[rpc_id for rpc_id, _ in channel.calls] for channel in channels] == [[0, 1, 2], [0]]


async def test_what_a_channel_knows_of_a_message_is_told_to_the_rules_beside_the_rest():
    async with House() as house:
        device = house.add_device()
        session = house.inlet.open_session(device, FakeChannel())
        await session.post_telemetry([TsKv(5, {"t": 1}), TsKv(6, {"t": 2})], {"mqttTopic": "plant/1"})
        await session.post_attributes({"fw": "1"}, {"mqttTopic": "plant/2"})
        await session.post_telemetry([TsKv(7, {"t": 3})])
        usual = {"deviceName": device.name, "deviceType": device.type}
        assert [message.metadata for message in house.rules.seen if message.type.startswith("POST")] == [
            usual | {"ts": "5", "mqttTopic": "plant/1"},
            usual | {"ts": "6", "mqttTopic": "plant/1"},
            usual | {"notifyDevice": "false", "mqttTopic": "plant/2"},
            usual | {"ts": "7"},
        ]
