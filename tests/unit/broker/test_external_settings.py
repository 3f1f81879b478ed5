"""What the settings of an external broker may be."""

import pytest

from gateway.config import ExternalBrokerConfig, GatewayConfig, parse_config
from gateway.errors import ConfigError


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"part": 3, "parts": 2}, "part must be 1 to 2"),
        ({"part": 1, "parts": 2, "share": "site"}, "parts and share exclude each other"),
        ({"tls_ca": "ca.pem"}, "need tls: true"),
        ({"tls": True, "tls_cert": "c.pem"}, "are given together"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_with_the_reason(settings, words):
    with pytest.raises(ConfigError, match=words) as caught:
        parse_config(GatewayConfig, {"external_broker": {"host": "there", **settings}}, "")
    assert caught.value.where == "external_broker"


def test_a_password_is_not_shown():
    config = ExternalBrokerConfig(host="there", user="edge", password="hush")
    assert "hush" not in repr(config) + str(config)
