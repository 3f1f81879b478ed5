"""Run by the SDK's own interpreter: a gateway with `tb-mqtt-client`, driven line by line; answers are JSON lines.

Lines in: a JSON array of a method's name and its arguments. Lines out: `{"done": …}` for each of them, `{"rpc": …}` and
`{"attributes": …}` when something comes down.
"""

import json
import sys
import threading

from tb_device_mqtt import TBPublishInfo
from tb_gateway_mqtt import TBGatewayMqttClient

lock = threading.Lock()


def say(**what: object) -> None:
    with lock:
        print(json.dumps(what), flush=True)


def main() -> None:
    client = TBGatewayMqttClient("127.0.0.1", int(sys.argv[1]), "gw-token")
    waiting = threading.Event()

    def on_call(_: object, body: dict) -> None:
        if "method" not in body["data"]:
            return  # its own answer: behind a broker it hears itself
        say(rpc=body)
        client.gw_send_rpc_reply(body["device"], body["data"]["id"], {"got": body["data"]["params"]}, 0)

    def on_own_call(request_id: int, body: dict) -> None:
        say(own=body)

    client.gw_set_server_side_rpc_request_handler(on_call)
    client.set_server_side_rpc_request_handler(on_own_call)
    client.gw_subscribe_to_all_attributes(lambda body: say(attributes=body))
    client.connect()
    while not client.rate_limits_received:
        waiting.wait(0.05)
    say(done="connected")
    for line in sys.stdin:
        method, *arguments = json.loads(line)
        if method.startswith("gw_request"):
            arguments.append(lambda body, error: say(found=body))
        info = getattr(client, method)(*arguments)
        say(done=info is None or info.get() == TBPublishInfo.TB_ERR_SUCCESS)
    client.disconnect()


main()
