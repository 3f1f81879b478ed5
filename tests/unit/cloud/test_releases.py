"""The releases that can be announced: in the settings, on the wire and in the documents."""

import re
from pathlib import Path
from typing import get_args

from gateway.cloud.encode import encode_connect
from gateway.cloud.pb import edge_pb2
from gateway.config import CloudConfig

PAGE = Path(__file__).resolve().parents[3] / "docs" / "cloud.md"


def test_every_choice_has_its_row_with_its_number():
    rows = dict(re.findall(r"^\| `(\d\.\d\.\d)` \| (\d+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    choices = get_args(CloudConfig.model_fields["edge_version"].annotation)
    assert set(rows) == set(choices)
    for release, number in rows.items():
        request = edge_pb2.RequestMsg.FromString(encode_connect("k", "s", release, 1000)).connectRequestMsg
        assert request.edgeVersion == int(number)
