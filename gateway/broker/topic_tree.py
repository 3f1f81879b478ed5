"""Topics, filters, and who matches: a tree by level, so that a topic costs its levels, not the number of filters.

Source: OASIS MQTT 3.1.1 §4.7 (wildcards; topics that begin with `$` are not for a leading wildcard).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


def is_valid_filter(topic_filter: str) -> bool:
    """Wildcards stand alone in their level, `#` only at the end."""
    levels = topic_filter.split("/")
    return all(
        ("+" not in level and "#" not in level) or level == "+" or (level == "#" and index == len(levels) - 1)
        for index, level in enumerate(levels)
    )


class _Node(Generic[T]):
    __slots__ = ("children", "values")

    def __init__(self) -> None:
        self.children: dict[str, _Node[T]] = {}
        self.values: dict[T, int] = {}


class FilterTree(Generic[T]):
    """Who listens to what, with a QoS."""

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()

    def add(self, topic_filter: str, who: T, qos: int) -> None:
        """An older QoS of the same listener is replaced."""
        node = self._root
        for level in topic_filter.split("/"):
            node = node.children.setdefault(level, _Node())
        node.values[who] = qos

    def remove(self, topic_filter: str, who: T) -> None:
        """Unknown is no error."""
        path: list[tuple[_Node[T], str]] = []
        node = self._root
        for level in topic_filter.split("/"):
            child = node.children.get(level)
            if child is None:
                return
            path.append((node, level))
            node = child
        node.values.pop(who, None)
        for parent, level in reversed(path):
            child = parent.children[level]
            if child.values or child.children:
                return
            del parent.children[level]

    def matching(self, topic: str) -> dict[T, int]:
        """Listeners with the highest QoS of their matching filters."""
        found: dict[T, int] = {}
        nodes = [self._root]
        is_first = True
        for level in topic.split("/"):
            following: list[_Node[T]] = []
            is_open = not (is_first and level[:1] == "$")
            is_first = False
            for node in nodes:
                children = node.children
                if (child := children.get(level)) is not None:
                    following.append(child)
                if is_open:
                    if (child := children.get("+")) is not None:
                        following.append(child)
                    if (child := children.get("#")) is not None:
                        _take(child, found)
            nodes = following
            if not nodes:
                return found
        for node in nodes:
            _take(node, found)
            if (child := node.children.get("#")) is not None:  # `a/#` hears `a` too
                _take(child, found)
        return found


def _take(node: _Node[T], found: dict[T, int]) -> None:
    for who, qos in node.values.items():
        if qos >= found.get(who, 0):
            found[who] = qos


class TopicTree(Generic[T]):
    """Topics with a value each, found by filter."""

    def __init__(self) -> None:
        self._root: dict[str, _Branch[T]] = {}
        self._values: dict[str, T] = {}

    def __len__(self) -> int:
        return len(self._values)

    def get(self, topic: str) -> T | None:
        """The value of one topic."""
        return self._values.get(topic)

    def put(self, topic: str, value: T) -> None:
        """Add or replace."""
        if topic not in self._values:
            level_map = self._root
            branch: _Branch[T] | None = None
            for level in topic.split("/"):
                branch = level_map.setdefault(level, _Branch())
                level_map = branch.below
            if branch is not None:
                branch.topic = topic
        self._values[topic] = value

    def pop(self, topic: str) -> T | None:
        """The value, gone from here; None when there is none."""
        if topic not in self._values:
            return None
        path: list[tuple[dict[str, _Branch[T]], str]] = []
        level_map = self._root
        for level in topic.split("/"):
            path.append((level_map, level))
            level_map = level_map[level].below
        path[-1][0][path[-1][1]].topic = None
        for holder, level in reversed(path):
            branch = holder[level]
            if branch.below or branch.topic is not None:
                break
            del holder[level]
        return self._values.pop(topic)

    def topics(self, topic_filter: str) -> Iterator[str]:
        """Topics that the filter matches."""
        if "+" not in topic_filter and "#" not in topic_filter:
            if topic_filter in self._values:
                yield topic_filter
            return
        levels = topic_filter.split("/")
        todo: list[tuple[dict[str, _Branch[T]], int]] = [(self._root, 0)]
        while todo:
            level_map, depth = todo.pop()
            level = levels[depth]
            is_wild = level in ("+", "#")
            branches = list(level_map.items()) if is_wild else [(level, level_map[level])] if level in level_map else []
            for name, branch in branches:
                if is_wild and level_map is self._root and name[:1] == "$":
                    continue
                is_last = depth == len(levels) - 1
                if branch.topic is not None and (is_last or levels[depth + 1 :] == ["#"]):
                    yield branch.topic
                if level == "#":
                    todo.append((branch.below, depth))
                elif not is_last:
                    todo.append((branch.below, depth + 1))


class _Branch(Generic[T]):
    __slots__ = ("below", "topic")

    def __init__(self) -> None:
        self.below: dict[str, _Branch[T]] = {}
        self.topic: str | None = None
