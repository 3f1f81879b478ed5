"""What the documents name exists: links, files, commands, options, settings, counters; and their YAML loads."""

import re
from pathlib import Path

import click
import pytest
import yaml

from gateway import cli
from gateway.config import GatewayConfig, PostgresStore, SqliteStore, parse_config
from gateway.config.reading import CLOUD_ENVIRONMENT
from gateway.fieldbus.plugins import Plugins, parse_buses
from gateway.fieldbus.servers import parse_servers

ROOT = Path(__file__).parents[2]
FOLDERS = ("", "docs", "config", "drivers", "proto", "gateway", "tests", "bench", "changelog.d")
PAGES = sorted(page for folder in FOLDERS for page in (ROOT / folder).glob("**/*.md" if folder else "*.md"))
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
SUFFIXES = (".py", ".md", ".json", ".yaml", ".sh", ".toml", ".proto", ".sql", ".service", "/")
SECTIONS = {
    name: GatewayConfig.model_fields[name].annotation for name in ("broker", "http", "cloud", "rules", "api", "log")
}

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def prose(page):
    """Without the blocks of code."""
    return FENCE.sub("", page.read_text())


def names(page):
    """What stands in backticks, and the text in blocks of code."""
    text = page.read_text()
    return CODE.findall(FENCE.sub("", text)) + [block for _, block in FENCE.findall(text)]


@pages
def test_links_resolve(page):
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    broken = [
        target
        for target in targets
        if not target.startswith(("http://", "https://", "#")) and not (page.parent / target.split("#")[0]).exists()
    ]
    assert broken == []


@pages
def test_files_that_are_named_exist(page):
    missing = []
    for name in CODE.findall(prose(page)):
        is_path = re.fullmatch(r"[a-z_.][\w./-]*", name) and "/" in name and name.endswith(SUFFIXES)
        is_topic = name.startswith(("v1/", "v2/"))
        if is_path and not is_topic and "…" not in name:
            homes = (ROOT, ROOT / "gateway", page.parent)
            if not any((home / name).exists() for home in homes) and not name.startswith((".venv", "conf.d/")):
                missing.append(name)
    assert missing == []


@pages
def test_commands_and_their_options_exist(page):
    context = click.Context(cli.main)
    for text in names(page):
        for line in text.splitlines():
            for command, rest in re.findall(r"(?<!-g )(?<![\w/-])edge-gateway ([a-z]+(?:-[a-z]+)*)\b([^|#;&`]*)", line):
                if line.lstrip().startswith(("#", "ExecStart")) or "apt-get" in line or "systemctl" in line:
                    continue
                found = cli.main.get_command(context, command)
                assert found is not None, f"edge-gateway {command}"
                if isinstance(found, click.Group) and not (
                    found.invoke_without_command and rest.strip()[:1] in ("-", "")
                ):
                    inner = found.get_command(context, rest.split()[0])
                    assert inner is not None, f"edge-gateway {command} {rest}"
                    found = inner
                known = {
                    option for parameter in found.params for option in (*parameter.opts, *parameter.secondary_opts)
                }
                named = set(re.findall(r"(?<![\w-])(--?[a-z][a-z-]*)", rest))
                assert named <= known, f"edge-gateway {command}: {named - known}"


def test_options_of_the_simulated_cloud_are_all_described():
    command = cli.main.get_command(click.Context(cli.main), "cloud-sim")
    text = (ROOT / "docs" / "cloud-sim.md").read_text()
    missing = [option for parameter in command.params for option in parameter.opts if f"`{option}`" not in text]
    assert missing == []
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert set(re.findall(r"`(--[a-z-]+)`", text)) <= known


@pages
def test_make_targets_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for text in names(page):
        for target in re.findall(r"(?:^|\n|: )make ([a-z-]+)\b", text):
            assert target in targets


@pages
def test_settings_and_counters_that_are_named_exist(page):
    source = "".join(path.read_text() for path in (ROOT / "gateway").glob("**/*.py"))
    unknown = []
    for text in names(page):
        for section, key in re.findall(
            r"(?<![\w./-])(store|broker|cloud|rules|api|log|uplink)\.([a-z_]+)\b(?![./(])", text
        ):
            models = (SqliteStore, PostgresStore) if section == "store" else (SECTIONS.get(section),)
            is_setting = any(model is not None and key in model.model_fields for model in models)
            is_file = key in ("py", "md", "secret", "key")
            if not (is_setting or is_file or f'"{section}.{key}' in source):
                unknown.append(f"{section}.{key}")
    assert unknown == []


@pages
def test_environment_names_exist(page):
    for name in re.findall(r"\bCLOUD_[A-Z_]+\b", page.read_text()):
        assert name in CLOUD_ENVIRONMENT


def blocks():
    for page in PAGES:
        for number, (language, text) in enumerate(FENCE.findall(page.read_text())):
            if language == "yaml":
                yield pytest.param(text, id=f"{page.relative_to(ROOT)}-{number}")


@pytest.mark.parametrize("text", list(blocks()))
def test_configuration_in_the_documents_loads(text):
    config = parse_config(GatewayConfig, yaml.safe_load(text), "")
    parse_servers(config.servers, Plugins(), parse_buses(config.buses, Plugins()))


def test_commented_examples_of_the_sample_load():
    text = (ROOT / "config" / "gateway.yaml").read_text()
    devices, buses = text.split("\ndevices: []\n")[1].split("\nbuses: []\n")
    buses, servers = buses.split("\nservers: []\n")
    example = "devices:\n" + _bare(devices.split("\n\n")[0]) + "\nbuses:\n" + _bare(buses.split("\n\n")[0])
    example += "\nservers:\n" + _bare(servers)
    config = parse_config(GatewayConfig, yaml.safe_load(example), "")
    entries = parse_buses(config.buses, Plugins())
    assert [bus.name for bus in entries] == ["plant"]
    assert [server.name for server in parse_servers(config.servers, Plugins(), entries)] == ["scada"]
    assert config.devices[0].name == "Thermostat-1"


def _bare(text):
    return "\n".join(line.removeprefix("#") for line in text.splitlines())


@pages
def test_no_path_of_somebody_s_machine(page):
    assert re.findall(r"/(?:root|home|Users|work|tmp)/\w+", page.read_text()) == []


def test_every_page_is_linked_somewhere():
    texts = {page: page.read_text() for page in PAGES}
    for page in (ROOT / "docs").glob("*.md"):
        assert any(f"{page.name})" in text for other, text in texts.items() if other != page), page.name
