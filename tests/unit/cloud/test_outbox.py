"""What waits for the line: RPC and acknowledgements pass the telemetry, each kind in its order."""

from tests.unit.cloud.line import make


async def test_urgent_messages_pass_and_each_kind_keeps_its_order():
    link = make(1)
    for request, is_urgent in ((b"t1", False), (b"t2", False), (b"rpc1", True), (b"t3", False), (b"ack", True)):
        link._post(request, is_urgent=is_urgent)
    written = [link._outbox.get_nowait()[2] for _ in range(5)]
    assert written == [b"rpc1", b"ack", b"t1", b"t2", b"t3"]
