"""A house for servers: values that the test sets, and what masters wrote."""

import asyncio

from gateway.ports import LastValue


class FakeHouse:
    """Implements `Served`. `gate` holds every post until it is set; `errors` by device fail posts and writes."""

    def __init__(self):
        self.facts = {"uptime_s": 7, "pending": 70_000, "cloud_connected": True, "parked": None}
        self.values = {}  # (device, key) → LastValue
        self.attributes = {}  # (device, scope, key) → LastValue
        self.posts = []
        self.writes = []
        self.errors = {}
        self.gate = asyncio.Event()
        self.gate.set()

    def set(self, device, key, value, age_s=0.0, problem=None):
        self.values[device, key] = LastValue(value, age_s, problem)

    def gateway(self, name):
        return self.facts.get(name)

    def telemetry(self, device, key):
        return self.values.get((device, key))

    def attribute(self, device, scope, key):
        return self.attributes.get((device, scope, key))

    async def post(self, device, telemetry, attributes):
        if device in self.errors:
            raise self.errors[device]
        await self.gate.wait()
        self.posts.append((device, telemetry, attributes))
        for key, value in telemetry.items():
            self.set(device, key, value)

    async def write(self, device, key, value, timeout_s):
        if device in self.errors:
            raise self.errors[device]
        self.writes.append((device, key, value))
        self.set(device, key, value)
