"""One gateway, one cloud, and everything that can go wrong between them, in random order."""

from __future__ import annotations

import os
from unittest.mock import patch

import pytest

from tests.property.cloud_walk import Walk, telling

STEPS = int(os.environ.get("EDGE_GATEWAY_WALK_STEPS", "100"))
SEED = int(os.environ.get("EDGE_GATEWAY_WALK_SEED", "2"))


@pytest.mark.parametrize("drain", ["oldest_first", "live_first"])
async def test_what_is_acknowledged_is_in_the_cloud_parked_or_pending_wherever_a_walk_leads(tmp_path, drain):
    walk = Walk(tmp_path, SEED, drain=drain)
    with (
        telling(SEED, STEPS, lambda: walk),
        patch("gateway.uplink.overtaking._LONG_BACKLOG", 30),
    ):
        async with walk.open():
            await walk.take(STEPS)
            await walk.finish()
        walk.check_peer()
