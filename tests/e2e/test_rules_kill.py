"""What rules hold back, through kills and an exchange of their chain; and nodes that take what they can get."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time

import pytest

from bench.mqtt_load import connect_packet
from tests.e2e.ordered import InOrderDevice, publish_packet
from tests.e2e.parts import CloudProcess, GatewayProcess, until

pytestmark = pytest.mark.server

P = "org.thingsboard.rule.engine."


def chain(nodes, *connections, id_=None):
    """Nodes are (class, name, configuration), behind a switch by the name of the device whose telemetry it is."""
    return {
        "ruleChain": {
            "name": "Line",
            "type": "EDGE",
            "root": True,
            **({"id": {"entityType": "RULE_CHAIN", "id": id_}} if id_ else {}),
        },
        "metadata": {
            "firstNodeIndex": 0,
            "nodes": [
                {"type": kind, "name": name, "configuration": config, "configurationVersion": 9}
                for kind, name, config in [
                    (P + "filter.TbJsSwitchNode", "who", js(WHO)),
                    *nodes,
                ]
            ],
            "connections": [{"fromIndex": a, "toIndex": b, "type": label} for a, b, label in connections],
        },
    }


def js(body):
    return {"scriptLang": "JS", "jsScript": body}


WHO = "return msgType == 'POST_TELEMETRY_REQUEST' ? metadata.deviceName : 'other';"
UP = (P + "edge.TbMsgPushToCloudNode", "up", {"scope": "SERVER_SCOPE"})
COUNT = "return {msg: {n: msg.length}};"
HOLDING = [
    UP,
    ("edge.gateway.rules.AggregateNode", "window", {"windowSeconds": 2, "functions": ["count"], "keys": ["seq"]}),
    (
        P + "deduplication.TbMsgDeduplicationNode",
        "pack",
        {"interval": 2, "strategy": "ALL", "outMsgType": "POST_TELEMETRY_REQUEST", "maxPendingMsgs": 10_000},
    ),
    (P + "transform.TbTransformMsgNode", "length", js(COUNT)),
    (P + "delay.TbMsgDelayNode", "later", {"periodInSeconds": 2, "maxPendingMsgs": 10_000}),
    ("edge.gateway.rules.ThresholdNode", "long", {"key": "seq", "value": 0, "durationSeconds": 3}),
    (P + "action.TbCreateAlarmNode", "alarm", {"alarmType": "Hot", **js("return {};")}),
]
WAYS = (
    (0, 2, "window"),
    (2, 1, "Success"),
    (0, 3, "pack"),
    (3, 4, "Success"),
    (4, 1, "Success"),
    (0, 5, "later"),
    (5, 1, "Success"),
    (0, 6, "hot"),
    (6, 7, "Raise"),
    (7, 1, "Created"),
)
KILLS = 2


@pytest.mark.slow
async def test_what_rules_hold_comes_once_through_kills_and_an_exchange_of_the_chain(tmp_path):
    names = ("window", "pack", "later", "hot")
    devices = [{"name": name, "access_token": name} for name in names]
    async with (
        CloudProcess(tmp_path, keep_values=10_000) as cloud,
        GatewayProcess(tmp_path, cloud.grpc_port, devices=devices) as gateway,
    ):
        made = await cloud.call("POST", "/api/rule-chains?root=true", chain(HOLDING, *WAYS))

        async def is_root():
            return any(one["root"] and one["name"] == "Line" for one in (await gateway.ask("/rules"))["chains"])

        await until(is_root, 20, "the chain did not come")
        clients = {name: InOrderDevice(name, gateway.port, window=1, every_s=0.02) for name in names}
        running = [asyncio.create_task(client.run()) for client in clients.values()]
        for _ in range(KILLS):
            marks = {name: client.acknowledged + 30 for name, client in clients.items()}

            async def is_going_on(marks=marks):
                return all(clients[name].acknowledged >= mark for name, mark in marks.items())

            await until(is_going_on, 30, "no acknowledgements")
            await gateway.kill()
            await gateway.start()
        await until(is_root, 20, "the chain is forgotten")
        again = chain([*HOLDING, (P + "flow.TbAckNode", "more", {})], *WAYS, (5, 8, "Failure"), id_=made["id"])
        assert await cloud.call("POST", "/api/rule-chains?root=true", again) == made
        await asyncio.sleep(0.5)
        for client in clients.values():
            client.is_ending = True
        await asyncio.wait_for(asyncio.gather(*running), 30)

        async def counted(name, key):
            values = await cloud.call("GET", f"/api/devices/{name}/telemetry?key={key}&limit=10000")
            return sum({one["ts"]: one["value"] for one in values}.values())

        async def is_all_there():
            return (
                (await cloud.device("later")).get("seq_contiguous") == clients["later"].sent
                and await counted("window", "seq_count") >= clients["window"].sent
                and await counted("pack", "n") >= clients["pack"].sent
                and await cloud.call("GET", "/api/alarms")
            )

        await until(is_all_there, 30, "something is missing")
        # A reading whose acknowledgement was lost with a kill is sent again: at least once, and at most once more.
        assert await counted("window", "seq_count") <= clients["window"].sent + KILLS
        assert await counted("pack", "n") <= clients["pack"].sent + KILLS
        assert [alarm["type"] for alarm in await cloud.call("GET", "/api/alarms")] == ["Hot"]
        state = await cloud.state()
        assert (state["missing"], state["violation_counts"]) == (0, {})
        nodes = {node["name"] for one in (await gateway.ask("/rules"))["chains"] for node in one["nodes"]}
        assert "more" in nodes


class Hanging:
    """A server that takes requests and answers none until `go`."""

    def __init__(self):
        self.go = asyncio.Event()
        self.asked = 0

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/"
        return self

    async def __aexit__(self, *_):
        self.go.set()
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader, writer):
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split()[0]))
                self.asked += 1
                await self.go.wait()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


async def latencies(port, seconds):
    """Seconds from each publish of `plain` to its PUBACK, one after the other."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(connect_packet("plain", "plain"))
    await reader.readexactly(4)
    taken, end_s = [], time.monotonic() + seconds
    while time.monotonic() < end_s:
        started_s = time.monotonic()
        writer.write(publish_packet(len(taken) + 1, b'{"t":1}'))
        assert (await reader.readexactly(4))[:2] == b"\x40\x02"
        taken.append(time.monotonic() - started_s)
        await asyncio.sleep(0.02)
    writer.close()
    return sorted(taken)


LIMIT_S = 0.1


async def test_scripts_without_end_and_a_server_that_hangs_hold_up_nobody_else(tmp_path):
    names = ("loop", "eat", "rest", "plain")
    async with Hanging() as server, CloudProcess(tmp_path) as cloud:
        nodes = [
            UP,
            (P + "filter.TbJsFilterNode", "for ever", js("while (true) {}")),
            (P + "filter.TbJsFilterNode", "memory", js("var a = []; while (true) { a.push(new Array(1e6).fill(1)); }")),
            (P + "rest.TbRestApiCallNode", "ask", {"restEndpointUrlPattern": server.url, "readTimeoutMs": 20_000}),
            (P + "transform.TbTransformMsgNode", "back", js("return {msg: {seq: Number(metadata.seq)}};")),
            (P + "transform.TbCopyKeysNode", "keep", {"copyFrom": "DATA", "keys": ["seq"]}),
        ]
        ways = (
            (0, 1, "plain"),
            (0, 2, "loop"),
            (0, 3, "eat"),
            (0, 6, "rest"),
            (6, 4, "Success"),
            (4, 5, "Success"),
            (5, 1, "Success"),
        )
        path = tmp_path / "chain.json"
        path.write_text(json.dumps(chain(nodes, *ways)))
        rules = {"root_chain": str(path), "prefer_cloud": False, "allow_rest": [server.url]}
        rules |= {"script_timeout_ms": int(LIMIT_S * 1000)}
        devices = [{"name": name, "access_token": name} for name in names]
        async with GatewayProcess(tmp_path, cloud.grpc_port, devices=devices, rules=rules) as gateway:
            rough = [InOrderDevice(name, gateway.port, window=1, every_s=0.05) for name in ("loop", "eat")]
            asking = InOrderDevice("rest", gateway.port, window=3)
            running = [asyncio.create_task(client.run()) for client in (*rough, asking)]
            taken = await latencies(gateway.port, 3)
            assert taken[len(taken) // 2] < LIMIT_S, "half of the acknowledgements took longer than a script may"
            assert taken[-1] < 10 * LIMIT_S, taken[-5:]
            assert all(client.acknowledged > 10 for client in rough), "what fails is acknowledged, as in ThingsBoard"
            assert (server.asked, asking.acknowledged) == (1, 0), "the answer comes before the receipt, and in order"
            for name in ("rest", "plain"):
                await cloud.call("POST", f"/api/devices/{name}/attributes/SHARED_SCOPE", {"limit": 1})

            async def has_told():
                return (await cloud.state())["queued_downlinks"] == 0

            await until(has_told, 5, "what the cloud wants waits for the server")
            assert asking.acknowledged == 0
            server.go.set()

            async def are_answered():
                return asking.acknowledged >= 20

            await until(are_answered, 15, "the rest node does not go on")
            server.go.clear()
            asked, acknowledged = server.asked, asking.acknowledged

            async def is_hanging():
                nonlocal asked, acknowledged
                await asyncio.sleep(0.3)
                before, (asked, acknowledged) = (asked, acknowledged), (server.asked, asking.acknowledged)
                return before == (asked, acknowledged)

            await until(is_hanging, 10, "the server still answers")

            async def is_up():
                return (await cloud.device("rest")).get("seq_contiguous") == acknowledged

            await until(is_up, 15, "what was acknowledged is not in the cloud")
            for task in running:
                task.cancel()
            await asyncio.wait(running)
            started_s = time.monotonic()
            os.kill(gateway.process.pid, signal.SIGTERM)
            await gateway.process.stop()
            assert time.monotonic() - started_s < 4.5, "it waited for the server"
            assert "Traceback" not in gateway.log()
        assert (await cloud.state())["out_of_order"] == 0
