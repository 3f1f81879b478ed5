"""Devices that must be asked: buses, their drivers, and one owner task for each.

Promises:
- a dead unit never slows the others by more than one timeout per try, and its tries get rare;
- a late poll runs once and forgets the turns it missed; nothing piles up;
- a poll is repeated only after what it read before is durable;
- a call is executed before its deadline or not at all, and answered with the value read back.
"""

from gateway.fieldbus.room import Fieldbus
from gateway.fieldbus.servers import Servers

__all__ = ["Fieldbus", "Servers"]
