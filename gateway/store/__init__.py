"""Everything durable: devices, attributes, telemetry, calls and `cloud_event`, behind one writer.

Promises of every durable backend (`MemoryStore` forgets all at exit):

1. When `commit` returns, all its units would survive a power cut; when it raises, none of them is written.
2. `seq_id` counts from 1 in each lane, in the order of the units, and is never given twice.
3. Nothing is removed by reading. The cursor moves by `MoveCursor` only and never back; after a restart
   everything above it is seen again.
4. What was confirmed goes first when room is needed, then the oldest local history. What the cloud has not
   seen goes only under `drop_oldest`, only telemetry, and every event that goes is counted.
5. While the store is full, telemetry waits; cursor moves, RPC and state pass, so that the queue can drain.
6. A unit that cannot be written fails alone, with `RejectedError`. A disk or a server that does not answer is
   a `TransientError`, and the committer tries the same units again.
7. A damaged file is put aside under a name that says so, never repaired in silence and never deleted.

A connection that dies while a transaction is being committed leaves its fate unknown: the group is then
written again, so an event may be stored twice, and none is lost.
"""

from gateway.store.commit import GroupCommitter
from gateway.store.memory import MemoryStore
from gateway.store.open import open_store
from gateway.store.packages import PackageFiles

__all__ = ["GroupCommitter", "MemoryStore", "PackageFiles", "open_store"]
