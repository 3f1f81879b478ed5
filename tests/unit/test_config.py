from pathlib import Path

import pytest

from gateway.config import GatewayConfig, PostgresStore, load_config
from gateway.config_sample import sample_yaml
from gateway.errors import ConfigError

ROOT = Path(__file__).parents[2]


def load(tmp_path, text, environ=None):
    path = tmp_path / "gateway.yaml"
    path.write_text(text)
    return load_config(path, environ or {})


def test_committed_sample_is_fresh_and_loads():
    path = ROOT / "config" / "gateway.yaml"
    assert path.read_text() == sample_yaml(), "run: make config"
    assert load_config(path, {}).model_dump() == GatewayConfig().model_dump()


def test_sample_shows_every_key():
    text = sample_yaml()
    for section in ("broker", "cloud", "rules", "log", "api"):
        for key in GatewayConfig.model_fields[section].annotation.model_fields:
            assert f"{key}:" in text, f"{section}.{key}"


@pytest.mark.parametrize(
    ("text", "where", "problem"),
    [
        ("clowd: {}", "clowd", "did you mean 'cloud'?"),
        ("cloud: {routing_kee: x}", "cloud.routing_kee", "did you mean 'routing_key'?"),
        (
            "devices:\n - {name: A}\n - {name: B, acess_token: x}",
            "devices[1].acess_token",
            "did you mean 'access_token'?",
        ),
        ("store: {kind: sqlite, pth: x}", "store.pth", "did you mean 'path'?"),
        ("store: {kind: oracle}", "store", "'sqlite', 'postgres'"),
        ("broker: {port: 70000}", "broker.port", "less than or equal to 65535"),
        ("broker: {tls_port: 8883}", "broker", "tls_port needs tls_cert and tls_key"),
        ("broker: {port: x}", "broker.port", "valid integer"),
        ("devices: [{name: A}, {name: A}]", "devices", "two devices are named 'A'"),
        ("devices: [{name: A, mqtt_basic: {password: p}}]", "devices[0].mqtt_basic", "needs client_id or user_name"),
        ("cloud: {reconnect_ms: 5000, reconnect_max_ms: 10}", "cloud", "reconnect_max_ms must not be below"),
        ("store: {kind: postgres, url: 'mysql://x'}", "store.url", "postgresql://"),
        ("a: [1, 2", "gateway.yaml:1:9", "not YAML"),
        ("- a", "gateway.yaml", "mapping of sections"),
        ("cloud: {routing_key_file: /nowhere/key}", "cloud.routing_key_file", "cannot be read"),
        ("cloud: {host: a}\ncloud: {port: 1}", "gateway.yaml:2:1", "'cloud' stands twice"),
        ("store: {path: x}", "store.kind", "is missing; one of sqlite, postgres"),
        ("store: {kind: postgres, url: 'postgresql://h:port/x'}", "store.url", "postgresql://"),
        ("store: {kind: postgres}", "store.url", "is missing"),
        ("devices: {A: 1}", "devices", "must be a list"),
        ("buses: [x]", "buses[0]", "must be a mapping"),
        ("broker: 1", "broker", "must be a mapping"),
        ("devices: [{nam: A}]", "devices[0].nam", "did you mean 'name'?"),
        ("devices: [{name: A, access_token: ''}]", "devices[0].access_token", "must not be empty"),
        ("devices: [{name: A, access_token: provision}]", "devices[0]", "take another one"),
        ("devices: [{name: A, mqtt_basic: {client_id: provision}}]", "devices[0]", "take another one"),
        ("http: {port: 1883}", "(file)", "http.port is 1883, and so is broker.port"),
        ("broker: {websocket_port: 1883}", "(file)", "broker.websocket_port is 1883"),
        ("broker: {websocket_origins: [panel.example]}", "broker", "'panel.example' is no page's origin"),
        (
            "devices: [{name: A, access_token: x, mqtt_basic: {user_name: u}}]",
            "devices[0]",
            "access_token and mqtt_basic",
        ),
    ],
)
def test_a_complaint_says_where_and_what_would_be_right(tmp_path, text, where, problem):
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text)
    assert where in error.value.where
    assert problem in error.value.problem


@pytest.mark.parametrize(("content", "problem"), [(b"\xff\xfe", "is no text"), (b" \n", "is empty")])
def test_a_secret_file_that_holds_no_secret(tmp_path, content, problem):
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(ConfigError) as error:
        load(tmp_path, f"devices: [{{name: A, access_token_file: {tmp_path}/token}}]")
    assert error.value.where == "devices[0].access_token_file"
    assert problem in error.value.problem


def test_a_file_that_is_no_text(tmp_path):
    path = tmp_path / "gateway.yaml"
    path.write_bytes(b"a: 1\n\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8: byte 5 is 0xff"):
        load_config(path, {})


def test_an_environment_variable_that_is_no_yaml_is_named(tmp_path):
    with pytest.raises(ConfigError, match="EDGE_GATEWAY__BROKER__PORT:1:3: not YAML"):
        load(tmp_path, "", {"EDGE_GATEWAY__BROKER__PORT": "[1"})


def test_a_section_with_only_comments_in_conf_d_takes_nothing_away(tmp_path):
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "10-a.yaml").write_text("broker:\n# port: 2\n")
    assert load(tmp_path, "broker: {port: 1}").broker.port == 1


def test_an_empty_systemd_credential_is_none(tmp_path):
    (tmp_path / "cloud.secret").write_text("")
    config = load(tmp_path, "", {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert config.cloud.routing_secret.get_secret_value() == ""


def test_environment_wins_over_the_file(tmp_path):
    config = load(
        tmp_path,
        "cloud: {host: a, port: 1}\nbroker: {port: 2}",
        {
            "CLOUD_RPC_HOST": "b",
            "CLOUD_RPC_PORT": "7071",
            "CLOUD_ROUTING_KEY": "key",
            "CLOUD_RPC_SSL_ENABLED": "true",
            "EDGE_GATEWAY__BROKER__PORT": "1884",
        },
    )
    assert (config.cloud.host, config.cloud.port, config.broker.port, config.cloud.ssl_enabled) == (
        "b",
        7071,
        1884,
        True,
    )
    assert config.cloud.routing_key.get_secret_value() == "key"


def test_conf_d_is_merged_by_name(tmp_path):
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "10-a.yaml").write_text("broker: {port: 10, host: x}")
    (tmp_path / "conf.d" / "20-b.yaml").write_text("broker: {port: 20}")
    config = load(tmp_path, "broker: {port: 1}")
    assert (config.broker.port, config.broker.host) == (20, "x")


def test_secrets_come_from_files_and_systemd_and_never_print(tmp_path):
    (tmp_path / "cloud.secret").write_text("s3cret\n")
    (tmp_path / "tok").write_text("t0ken\n")
    config = load(
        tmp_path,
        f"cloud: {{routing_key: k3y}}\ndevices: [{{name: A, access_token_file: {tmp_path}/tok}}]",
        {"CREDENTIALS_DIRECTORY": str(tmp_path)},
    )
    assert config.cloud.routing_secret.get_secret_value() == "s3cret"
    assert config.devices[0].access_token.get_secret_value() == "t0ken"
    for secret in ("s3cret", "k3y", "t0ken"):
        assert secret not in repr(config)


def test_a_wrong_value_of_a_secret_is_not_repeated(tmp_path):
    with pytest.raises(ConfigError) as error:
        load(tmp_path, "store: {kind: postgres, url: 'mysql://user:hunter2@host/db'}")
    assert "hunter2" not in str(error.value)


def test_postgres_by_url(tmp_path):
    config = load(tmp_path, "store: {kind: postgres, url: 'postgresql://u:p@h/db'}")
    assert isinstance(config.store, PostgresStore)
