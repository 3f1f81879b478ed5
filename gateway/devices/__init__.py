"""The device session, in both directions: who is known, who is connected, what they say and are told."""

from gateway.devices.commands import Commands
from gateway.devices.founding import Found, found_devices
from gateway.devices.inlet import Inlet
from gateway.devices.ota import Ota
from gateway.devices.ota_folder import OtaFolder, read_manifest
from gateway.devices.pipeline import Pipeline
from gateway.devices.refreshing import Refreshing
from gateway.devices.rpc import RpcDesk
from gateway.devices.settled import SettledSeries
from gateway.devices.state import State
from gateway.devices.ticking import Ticking

__all__ = [
    "Commands",
    "Found",
    "Inlet",
    "Ota",
    "OtaFolder",
    "Pipeline",
    "Refreshing",
    "RpcDesk",
    "SettledSeries",
    "State",
    "Ticking",
    "found_devices",
    "read_manifest",
]
