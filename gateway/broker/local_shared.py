"""Shared subscriptions: each message goes to one member of the group, in turn.

Source: OASIS MQTT 5.0 §4.8.2.
"""

from __future__ import annotations

from collections.abc import Iterable

from gateway.broker.local_messages import Subscription, plain_filter
from gateway.broker.packets import Publish
from gateway.broker.topic_tree import FilterTree


class Group:
    """All who have subscribed to one `$share/<group>/<filter>`; who was chosen last stands at the end."""

    __slots__ = ("members", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.members: dict[Subscription, None] = {}

    def pick(self, packet: Publish) -> Subscription | None:
        """Whose turn it is: who can take it at once before who has to wait, those before who is away (its kept
        session waits for it). Who may not read the topic is passed over. None: nobody.
        """
        best, best_rank = None, 0
        for member in self.members:
            who = member.who
            if who.is_full:
                continue
            rank = 1
            if who.is_here:
                rank = 3 if who.has_room else 2
            elif not min(packet.qos, member.qos):
                continue
            if rank > best_rank and who.may_read(packet.topic):
                best, best_rank = member, rank
                if rank == 3:
                    break
        if best is not None:
            del self.members[best]
            self.members[best] = None
        return best


class Groups:
    """Every group, found by topic."""

    def __init__(self) -> None:
        self._tree: FilterTree[Group] = FilterTree()
        self._groups: dict[str, Group] = {}

    def __len__(self) -> int:
        return len(self._groups)

    def add(self, member: Subscription) -> None:
        """One more."""
        group = self._groups.get(member.name)
        if group is None:
            group = self._groups[member.name] = Group(member.name)
            self._tree.add(plain_filter(member.name), group, 0)
        group.members[member] = None

    def remove(self, member: Subscription) -> None:
        """Unknown is no error; the last one takes the group with it."""
        group = self._groups.get(member.name)
        if group is None:
            return
        group.members.pop(member, None)
        if not group.members:
            del self._groups[member.name]
            self._tree.remove(plain_filter(member.name), group)

    def matching(self, topic: str) -> Iterable[Group]:
        """Groups that hear this topic."""
        return self._tree.matching(topic)

    def get(self, name: str) -> Group | None:
        """By the whole name."""
        return self._groups.get(name)
