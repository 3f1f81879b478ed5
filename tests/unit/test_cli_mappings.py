"""`edge-gateway mappings test`: what it prints, and its exit codes."""

import json

from click.testing import CliRunner

from gateway.cli import main


def run(*arguments):
    return CliRunner().invoke(main, ["mappings", "test", *arguments])


def test_it_prints_what_would_happen():
    result = run("tasmota", "--topic", "tele/plug/STATE", "--payload", '{"POWER": "ON"}')
    assert result.exit_code == 0
    said = json.loads(result.output)
    assert said["rule"].endswith("tasmota.yaml: up[2]")
    assert (said["device"], said["profile"], said["telemetry"][0]["values"]) == ("plug", "tasmota", {"POWER": True})


def test_what_is_not_taken_and_what_does_not_fit_is_told_apart(tmp_path):
    result = run("tasmota", "--topic", "other/plug")
    assert (result.exit_code, "stays a local message" in result.output) == (1, True)
    result = run("tasmota", "--topic", "tele/plug/STATE", "--payload", "{}")
    assert (result.exit_code, "does not fit" in result.output) == (1, True)
    own = tmp_path / "own.yaml"
    own.write_text("up: [{topic: a/{d}, telemetry: []}]")
    result = run(str(own), "--topic", "a")
    assert (result.exit_code, str(own) in result.output) == (78, True)
