"""Provision keys of the configuration: what is wrong is said with its place."""

import pytest

from gateway.app import check
from gateway.config import ProvisioningConfig, load_config, parse_config
from gateway.devices.provision_keys import configured_keys
from gateway.domain.onboarding import certificate_hash
from gateway.errors import ConfigError

PEM = "text before\n-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n"


def keys(*given):
    return configured_keys(parse_config(ProvisioningConfig, {"keys": list(given)}, "provisioning"))


def test_keys_and_certificates(tmp_path):
    (tmp_path / "maker.pem").write_text(PEM)
    create, check, chain = keys(
        {"profile": "a", "key": "k1", "secret": "s"},
        {"profile": "b", "key": "k2", "secret": "s", "strategy": "check"},
        {"profile": "c", "strategy": "x509", "certificate": str(tmp_path / "maker.pem"), "create_devices": False},
    )
    assert (create.type, create.secret) == ("ALLOW_CREATE_NEW_DEVICES", "s")
    assert check.type == "CHECK_PRE_PROVISIONED_DEVICES"
    assert (chain.type, chain.key, chain.may_create) == ("X509_CERTIFICATE_CHAIN", certificate_hash("QUJD"), False)
    assert "'s'" not in repr(create)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"profile": "a", "key": "k"}, "needs key, and either secret or secret_file"),
        ({"profile": "a", "secret": "s"}, "needs key"),
        ({"profile": "a", "key": "k", "secret": "s", "certificate": "x.pem"}, "certificate is for strategy x509"),
        ({"profile": "a", "strategy": "x509"}, "needs certificate"),
        ({"profile": "a", "strategy": "x509", "certificate": "x", "name_pattern": "(("}, "no regular expression"),
        ({"profile": "a", "strategy": "x509", "certificate": "none.pem"}, "none.pem cannot be read"),
    ],
)
def test_what_is_wrong_is_told(given, text):
    with pytest.raises(ConfigError, match=r"provisioning.keys\[0\]") as error:
        keys(given)
    assert text in str(error.value)


def test_a_key_stands_once_and_a_file_must_be_a_certificate(tmp_path):
    twice = {"profile": "a", "key": "k", "secret": "s"}
    with pytest.raises(ConfigError, match="stands twice"):
        keys(twice, twice)
    (tmp_path / "no.pem").write_text("nothing")
    with pytest.raises(ConfigError, match="is not the PEM of one certificate"):
        keys({"profile": "a", "strategy": "x509", "certificate": str(tmp_path / "no.pem")})


def test_a_secret_may_stand_in_a_file_and_check_config_looks(tmp_path):
    (tmp_path / "secret").write_text("s3cret\n")
    (tmp_path / "g.yaml").write_text(
        f"provisioning: {{keys: [{{profile: a, key: k, secret_file: {tmp_path / 'secret'}}}]}}\n"
    )
    config = load_config(tmp_path / "g.yaml", {})
    assert [key.secret for key in configured_keys(config.provisioning)] == ["s3cret"]
    check(config)
    (tmp_path / "g.yaml").write_text("provisioning: {keys: [{profile: a, strategy: x509, certificate: none.pem}]}\n")
    with pytest.raises(ConfigError, match="certificate"):
        check(load_config(tmp_path / "g.yaml", {}))
