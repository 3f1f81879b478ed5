"""Run by the SDK's own interpreter: provisions itself with `tb-mqtt-client`, then sends telemetry with the token."""

import json
import sys

from tb_device_mqtt import TBDeviceMqttClient, TBPublishInfo

port = int(sys.argv[1])
answer = TBDeviceMqttClient.provision("127.0.0.1", "key", "s3cret", port=port, device_name="Sensor")
token = answer["credentialsValue"]
client = TBDeviceMqttClient("127.0.0.1", port, token)
client.connect()
sent = client.send_telemetry({"temperature": 41.9}).get() == TBPublishInfo.TB_ERR_SUCCESS
client.disconnect()
print(json.dumps({"token": token, "sent": sent}))
