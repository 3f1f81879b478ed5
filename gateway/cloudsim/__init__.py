"""The other side: a stand-in for ThingsBoard's end of the edge protocol. A development tool.

For the demo, the tests and the benchmarks. It accepts one edge, syncs it, takes what it sends up, counts what
arrived, and can be told to misbehave. In a process of its own: `edge-gateway cloud-sim`; inside a test:

    async with CloudSim(CloudSimOptions()) as sim:
        ...  # sim.grpc_port, sim.http_port
"""

from gateway.cloudsim.faults import FaultSettings
from gateway.cloudsim.options import CloudSimOptions, CustomerKind, Flavour, SimDevice
from gateway.cloudsim.rpc import RpcResult
from gateway.cloudsim.server import CloudSim, run

__all__ = ["CloudSim", "CloudSimOptions", "CustomerKind", "FaultSettings", "Flavour", "RpcResult", "SimDevice", "run"]
