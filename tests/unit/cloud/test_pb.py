"""The committed modules and vectors are what protoc makes of their sources."""

import subprocess
import sys
from pathlib import Path

import pytest

from gateway.cloud.pb import edge_pb2
from tests.unit.cloud.build import VECTORS
from tests.vectors.edge.make_hex import encode

ROOT = Path(__file__).resolve().parents[3]


def test_the_committed_modules_are_fresh(tmp_path):
    subprocess.run([sys.executable, ROOT / "proto" / "generate.py", tmp_path], check=True, capture_output=True)
    fresh = sorted((tmp_path / "gateway/cloud/pb").iterdir())
    assert [file.name for file in fresh] == [
        "edge_pb2.py",
        "edge_pb2.pyi",
        "edge_pb2_grpc.py",
        "queue_pb2.py",
        "queue_pb2.pyi",
    ]
    for file in fresh:
        assert file.read_bytes() == (ROOT / "gateway/cloud/pb" / file.name).read_bytes(), file.name


@pytest.mark.parametrize("name", sorted(path.stem for path in VECTORS.glob("*.txtpb")))
def test_the_golden_bytes_are_protoc_s(name):
    text = (VECTORS / f"{name}.txtpb").read_text(encoding="utf-8")
    assert (VECTORS / f"{name}.hex").read_text(encoding="ascii") == encode(text)


def test_the_service_keeps_its_path():
    service = edge_pb2.DESCRIPTOR.services_by_name["EdgeRpcService"]
    assert service.full_name == "edge.EdgeRpcService"
    method = service.methods_by_name["handleMsgs"]
    assert method.client_streaming
    assert method.server_streaming


def test_field_numbers_that_servers_agree_on():
    uplink = {field.name: field.number for field in edge_pb2.UplinkMsg.DESCRIPTOR.fields}
    downlink = {field.name: field.number for field in edge_pb2.DownlinkMsg.DESCRIPTOR.fields}
    assert len(uplink) == 29
    assert (uplink["entityData"], uplink["deviceRpcCallMsg"], uplink["apiKeyUpdateMsg"]) == (2, 12, 30)
    assert len(downlink) == 37
    assert (downlink["deviceRpcCallMsg"], downlink["edgeConfiguration"], downlink["apiKeyUpdateMsg"]) == (21, 25, 37)
    assert edge_pb2.DeviceUpdateMsg.DESCRIPTOR.fields_by_name["entity"].number == 18
    assert edge_pb2.EdgeVersion.Value("V_3_7_0") == 7
