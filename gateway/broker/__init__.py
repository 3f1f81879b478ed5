"""Devices that speak: the MQTT endpoint.

The device API is not publish/subscribe: its topics belong to one connection, answers need no subscription,
and an acknowledgement means *on disk*. So a front of our own serves it; what local topics keep is its
business too, and what ends with a connection is passed to amqtt behind it.
"""

from gateway.broker.acl import load_acl
from gateway.broker.listener import MqttBroker

__all__ = ["MqttBroker", "load_acl"]
