"""The local rule chain: ThingsBoard's rule chains, run unchanged.

A chain does not write: it turns one message into an `Outcome`, a list of changes that the committer makes
durable. Nothing here awaits or does I/O on the way of a message; scripts run in a sandbox with limits.
"""

from gateway.rules.desk import RuleDesk
from gateway.rules.engine import RuleEngine
from gateway.rules.node import NodeProblem
from gateway.rules.record import Recorder

__all__ = ["NodeProblem", "Recorder", "RuleDesk", "RuleEngine"]
