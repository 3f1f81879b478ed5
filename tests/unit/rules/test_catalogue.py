"""The catalogue of nodes in the documents is that of the code."""

from pathlib import Path

from gateway.rules.catalogue import ABOUT, catalogue
from gateway.rules.catalogue_words import MEANINGS
from gateway.rules.node import OWN_PREFIX, REGISTRY


def test_the_committed_catalogue_is_fresh():
    path = Path(__file__).parents[3] / "docs" / "rule-nodes.md"
    assert path.read_text() == catalogue(), "run: make nodes"


def test_every_stock_node_has_its_place_and_is_run_unless_it_is_tier_c():
    told = {name: about.tier for nodes in ABOUT.values() for name, about in nodes.items()}
    assert set(told) == {name for name in REGISTRY if not name.startswith(OWN_PREFIX)}
    assert {name for name, tier in told.items() if tier == "C"} == {
        name for name, kind in REGISTRY.items() if not kind.is_supported
    }


def test_every_key_of_a_stock_node_has_a_meaning():
    dumb = [
        f"{name}: {field.alias}"
        for name, kind in REGISTRY.items()
        if not name.startswith(OWN_PREFIX)
        for field in kind.config.model_fields.values()
        if not field.description and field.alias not in MEANINGS
    ]
    assert dumb == [], "give its Field a description"


def test_no_secret_has_a_default_that_is_shown():
    assert "SecretStr" not in catalogue()
    assert "**" not in catalogue()
