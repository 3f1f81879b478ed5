"""An industrial IoT gateway: devices in, rules and a durable queue inside, a ThingsBoard cloud above."""

__version__ = "0.1.0"
