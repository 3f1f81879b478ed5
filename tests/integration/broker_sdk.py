"""Run by the SDK's own interpreter: one device session with `tb-mqtt-client`; prints what happened as JSON."""

import json
import sys
import threading
import time

from tb_device_mqtt import TBDeviceMqttClient, TBPublishInfo

PATIENCE_S = 10


def main() -> None:
    seen: dict[str, object] = {}
    pushed, called, asked = threading.Event(), threading.Event(), threading.Event()
    client = TBDeviceMqttClient("127.0.0.1", int(sys.argv[1]), "tok")

    def on_call(request_id: int, body: dict[str, object]) -> None:
        seen["rpc"] = body
        client.send_rpc_reply(request_id, {"done": True})
        called.set()

    def on_push(values: dict[str, object], error: object) -> None:
        seen["push"] = values
        pushed.set()

    def on_answer(values: dict[str, object], error: object) -> None:
        seen["attributes"] = values
        asked.set()

    client.set_server_side_rpc_request_handler(on_call)
    client.connect()
    client.subscribe_to_all_attributes(lambda values, error: on_push(values, error))
    ok = TBPublishInfo.TB_ERR_SUCCESS
    seen["telemetry"] = client.send_telemetry({"temperature": 41.9}).get() == ok
    seen["posted"] = client.send_attributes({"fw": "2.1"}).get() == ok
    client.request_attributes(["fw"], ["limit"], callback=on_answer)
    seen["in_time"] = [event.wait(PATIENCE_S) for event in (asked, pushed, called)]
    until_s = time.monotonic() + PATIENCE_S
    while not client.rate_limits_received and time.monotonic() < until_s:
        threading.Event().wait(0.05)  # the SDK asks for the limits from a thread of its own
    seen["limits"] = client.rate_limits_received
    client.disconnect()
    print(json.dumps(seen))


main()
