"""The rules over the local API, and the commands that ask it."""

import asyncio
import json

import pytest
import yaml
from click.testing import CliRunner

from gateway.cli import main
from gateway.rules import RuleDesk
from gateway.status_view import Answered, ask
from gateway.web import LocalApi
from gateway.web.rules import RuleRoutes
from tests.unit.rules.kit import CHAIN_ID, PUSH, SAVE, Rules, js, metadata


class House:
    """A local API with rules behind it, and the configuration that leads there."""

    def __init__(self, folder):
        self.rules = Rules()
        chain = metadata([SAVE, js("hot?", "return msg.t > 80;"), PUSH], (0, 1, "Success"), (1, 2, "True"))
        chain["nodes"].append({"type": "com.acme.Own", "name": "own", "configuration": {"apiKey": "s3cret"}})
        self.rules.put(CHAIN_ID, "Line 1", chain, is_root=True)
        self.path = folder / "api.sock"
        self.config = folder / "gateway.yaml"
        self.config.write_text(yaml.safe_dump({"data_dir": str(folder), "api": {"socket": str(self.path)}}))
        self.api = LocalApi(self.path, self._status, None, dict)
        self.api.rules = RuleRoutes(RuleDesk(self.rules.engine, self.rules.clock))

    async def _status(self):
        return {}

    async def ask(self, path, body=None):
        return await asyncio.to_thread(ask, self.path, path, body)

    async def run(self, *arguments):
        return await asyncio.to_thread(CliRunner().invoke, main, ["rules", *arguments, "--config", str(self.config)])


@pytest.fixture
async def house(tmp_path):
    made = House(tmp_path)
    serving = asyncio.create_task(made.api.serve())
    async with asyncio.timeout(10):
        while not made.path.exists():
            await asyncio.sleep(0.01)
    yield made
    serving.cancel()
    await asyncio.wait([serving])


async def test_chains_problems_and_an_export_with_what_was_wrong_in_the_question(house):
    overview = await house.ask("/rules")
    assert [chain["name"] for chain in overview["chains"]] == ["Edge Root Rule Chain", "Line 1"]
    assert overview["problems"] == ["Line 1 / own: unknown node class 'com.acme.Own'"]
    document = await house.ask("/rules/chain?chain=line%201")
    assert document["metadata"]["nodes"][3]["configuration"] == {"apiKey": "(hidden)"}
    for path, text in (
        ("/rules/chain?chain=Line", "there is no chain 'Line'"),
        ("/rules/chain", "chain: a text that is not empty"),
        ("/rules/debug?after=x", "after and limit are numbers"),
        ("/rules/debug?chain=Line%201&node=none", "has no node 'none'"),
    ):
        with pytest.raises(Answered, match=text):
            await house.ask(path)
    for body in ([], {"chain": "Root"}, {"chain": "Root", "node": "x", "seconds": "y"}):
        with pytest.raises(Answered, match=r"node|seconds|JSON object"):
            await house.ask("/rules/debug", body)


async def test_debug_events_after_a_number(house):
    assert await house.ask("/rules/debug", {"chain": "Line 1", "node": "hot?", "seconds": 30}) == {"seconds": 30}
    for t in (20, 90):
        house.rules.run({"t": t})
    events = await house.ask("/rules/debug?chain=Line%201&node=hot%3F")
    assert [event["labels"] for event in events] == [["false"], ["true"]]
    assert len(await house.ask(f"/rules/debug?after={events[0]['number']}")) == 1


async def test_ls_marks_what_is_not_run_and_ends_with_1(house):
    house.rules.run({"t": 90})
    result = await house.run("ls")
    assert result.exit_code == 1
    assert f"Line 1  (cloud, root)  {CHAIN_ID}" in result.output
    rows = {line.split()[0]: line for line in result.output.splitlines() if line.startswith("  ")}
    assert "TbJsFilterNode" in rows["hot?"]
    assert "1 messages" in rows["hot?"]
    assert "NOT RUN: unknown node class" in rows["own"]
    told = json.loads((await house.run("ls", "--json")).output)
    assert told["chains"][1]["nodes"][0]["messages"] == 1


async def test_ls_of_the_files_of_a_configuration_needs_no_gateway(house, tmp_path):
    chain = tmp_path / "own.json"
    chain.write_text(json.dumps({"ruleChain": {"name": "Own"}, "metadata": metadata([SAVE])}))
    house.config.write_text(yaml.safe_dump({"data_dir": str(tmp_path), "rules": {"root_chain": str(chain)}}))
    result = await house.run("ls", "--files")
    assert (result.exit_code, result.output.splitlines()[0][:19]) == (0, "Own  (file, root)  ")
    chain.write_text("[]")
    result = await house.run("ls", "--files")
    assert (result.exit_code, str(chain) in result.output) == (78, True)


async def test_show_prints_an_export_and_debug_prints_events(house):
    shown = json.loads((await house.run("show", "Line 1")).output)
    assert (shown["ruleChain"]["root"], shown["metadata"]["connections"][1]["type"]) == (True, "True")
    assert "no debug events" in (await house.run("debug")).output
    await house.ask("/rules/debug", {"chain": "Line 1", "node": "hot?"})
    house.rules.run({"t": 90})
    result = await house.run("debug", "Line 1/hot?")
    assert "Line 1 / hot? → true" in result.output
    assert '"t":90' in result.output
    assert (await house.run("debug", "Line 1", "--follow")).exit_code == 2
    assert json.loads((await house.run("debug", "--json")).output)["labels"] == ["true"]


async def test_metrics_have_each_chain(house):
    house.rules.run({"t": 90})
    reader, writer = await asyncio.open_unix_connection(str(house.path))
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    assert f'edge_gateway_rules_chain_messages_total{{chain="Line 1",id="{CHAIN_ID}",source="cloud"}} 1\n' in text
