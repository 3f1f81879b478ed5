"""From the queue to the cloud: what has been read (backlog), what goes together (batch), the loop (drain), what an
answer means (answers), the stored place (cursor), what goes ahead of a backlog (overtaking, live).

Promises:
- an event leaves the queue only when the cloud has confirmed it, or when it is parked;
- the events of one entity are confirmed in their order. An entity has events in one message at a time: what
  follows a failed event of it has not been sent yet, and waits. Other entities go on meanwhile;
- events of no entity of their own (relations, alarms) wait until everything before them is confirmed or parked;
- a repetition is possible (at least once): a message may have been applied before its failure or the loss of the link.
"""
