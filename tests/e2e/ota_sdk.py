"""Run by the SDK's own interpreter: one firmware update with `tb-mqtt-client`; prints what it got as JSON."""

import hashlib
import json
import sys
import threading

from tb_device_mqtt import TBDeviceMqttClient, TBFirmwareState

PATIENCE_S = 30


def main() -> None:
    seen: dict[str, object] = {}
    done = threading.Event()
    client = TBDeviceMqttClient("127.0.0.1", int(sys.argv[1]), sys.argv[2], chunk_size=int(sys.argv[3]))

    def updated(client: TBDeviceMqttClient, data: bytes, version: str) -> None:
        client.update_firmware_info(state=TBFirmwareState.UPDATING)
        seen.update(size=len(data), sha256=hashlib.sha256(data).hexdigest(), version=version)
        client.update_firmware_info("thermostat", version, TBFirmwareState.UPDATED)
        client.send_telemetry({"last": True}).get()
        done.set()

    client.set_on_firmware_received_callback(updated)
    client.connect()
    client.get_firmware_update()
    seen["in_time"] = done.wait(PATIENCE_S)
    client.disconnect()
    client.stop()
    print(json.dumps(seen))


main()
