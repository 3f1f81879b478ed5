"""Which points one request can write, and what it then carries. Pure.

Points are written in the order that was asked for: only such as follow one another in it share a request, and only
when they lie side by side, without a register between them that nobody asked to write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from drivers.modbus.registers import Layout, Table, Type, encode, merge, truth, truths
from drivers.modbus.tags import Tag
from gateway.domain.entity import Json
from gateway.errors import RejectedError

MOST: Final = {Table.COIL: 1968, Table.HOLDING_REGISTER: 123}
"""Of one request. Source: Modbus Application Protocol V1.1b3 §6.11, §6.12."""

_MOST_POINTS: Final = 123
_PARTIAL: Final = (Type.BIT, Type.BITS, Type.FIELD)
_ALONE: Final = (5, 6, 22)  # functions that write one coil or register at a time


@dataclass(frozen=True, slots=True)
class Content:
    """What one request writes: bits, or words; `keep` are those bits of a register that stay as they are."""

    address: int
    values: list[int]
    keep: int | None = None


def is_partial(layout: Layout, table: Table) -> bool:
    """True for points that share a register with what is not to be changed."""
    return not table.is_bits and layout.type in _PARTIAL


def together(tags: Sequence[Tag]) -> list[list[Tag]]:
    """Points of one unit in their order, cut so that each part is one request; greedy from the front."""
    parts: list[list[Tag]] = []
    rest = list(tags)
    while rest:
        size = _longest(rest)
        parts.append(rest[:size])
        rest = rest[size:]
    return parts


def _longest(tags: Sequence[Tag]) -> int:
    first = tags[0]
    best = 1
    if not first.is_writable or first.write_function in _ALONE:
        return 1
    if is_partial(first.layout, first.table):
        if first.layout.type is Type.BITS:
            return 1
        while best < min(len(tags), 16) and _is_alike(first, tags[best]) and tags[best].address == first.address:
            best += 1
        return best
    low, high, covered = first.address, first.address + first.count, first.count
    taken = {first.key}
    for size, tag in enumerate(tags[1:_MOST_POINTS], 2):
        if not _is_alike(first, tag) or tag.key in taken:
            break
        taken.add(tag.key)
        low, high = min(low, tag.address), max(high, tag.address + tag.count)
        covered += tag.count
        if covered > MOST[first.table]:
            break
        if high - low == covered and not _overlap(tags[:size]):
            best = size
    return best


def _is_alike(first: Tag, tag: Tag) -> bool:
    if not tag.is_writable or is_partial(tag.layout, tag.table) != is_partial(first.layout, first.table):
        return False
    if is_partial(tag.layout, tag.table) and tag.layout.type is not first.layout.type:
        return False
    ours = (first.unit_id, first.table, first.write_function, first.read_back)
    return (tag.unit_id, tag.table, tag.write_function, tag.read_back) == ours


def _overlap(tags: Sequence[Tag]) -> bool:
    end = -1
    for tag in sorted(tags, key=lambda each: each.address):
        if tag.address < end:
            return True
        end = tag.address + tag.count
    return False


def content(tags: Sequence[Tag], values: Mapping[str, Json]) -> Content:
    """What one part of `together` writes; of registers that are written in part the bits alone.

    Raises:
        RejectedError: A value that cannot be written; the text names its point.
    """
    first = tags[0]
    if is_partial(first.layout, first.table):
        if first.count > 1:
            raise RejectedError("bits of several registers are written into what they hold")
        ones, zeros = [0xFFFF], [0]
        for tag in tags:
            value = _wanted(tag, values)
            ones, zeros = _merged(ones, value, tag), _merged(zeros, value, tag)
        return Content(first.address, zeros, ones[0] ^ zeros[0])
    written: dict[int, int] = {}
    for tag in tags:
        value = _wanted(tag, values)
        try:
            if tag.table is Table.COIL:
                bits = truths(value, tag.count) if tag.layout.type is Type.BITS else [truth(value)]
                found = [int(bit) for bit in bits]
            else:
                found = encode(value, tag.layout)
        except RejectedError as error:
            raise named(tag, error) from None
        written.update(enumerate(found, tag.address))
    start = min(written)
    return Content(start, [written[start + place] for place in range(len(written))])


def merged(tag: Tag, present: Sequence[int], values: Mapping[str, Json]) -> list[int]:
    """The registers of a point of which only some bits are written, with these in what they hold."""
    return _merged(present, _wanted(tag, values), tag)


def as_read(tag: Tag, words: Sequence[int]) -> list[int]:
    """What was written for a point as it is read: some devices take the words in another order than they give them."""
    order = tag.layout.write_word_order
    return list(words) if order is None or order is tag.layout.word_order else list(words)[::-1]


def named(tag: Tag, error: RejectedError) -> RejectedError:
    """With the place of the point, and its name."""
    return RejectedError(f"unit {tag.unit_id}, {tag.table} {tag.address} ({tag.name}): {error}")


def _wanted(tag: Tag, values: Mapping[str, Json]) -> Json:
    try:
        return tag.to_write(values[tag.key])
    except RejectedError as error:
        raise named(tag, error) from None


def _merged(words: Sequence[int], value: Json, tag: Tag) -> list[int]:
    try:
        return merge(words, value, tag.layout)
    except RejectedError as error:
        raise named(tag, error) from None
