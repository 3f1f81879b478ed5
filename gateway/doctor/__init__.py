"""`edge-gateway doctor`: is everything as it has to be, and if not, which one thing first? For a person on the box.

Only looks: nothing is written, no sync is asked for, and a running service is asked instead of being evicted from
the cloud by a second connection under its key.
"""

from gateway.doctor.examine import examine
from gateway.doctor.findings import Finding, Level, exit_code

__all__ = ["Finding", "Level", "examine", "exit_code"]
