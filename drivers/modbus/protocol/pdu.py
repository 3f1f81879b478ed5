"""Request and answer PDUs of the functions 1–6, 15, 16, 22 and 23. Pure.

A master builds a `Question`: the bytes to send, and all that can be told in advance of the right answer. A slave turns
bytes into a `Request` and answers it with `answer` or `refusal`.

Source: Modbus Application Protocol V1.1b3 §6; quantities of one request from there too.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Final

from gateway.errors import RejectedError

MAX_PDU: Final = 253


class Function(IntEnum):
    """Function codes that are spoken."""

    READ_COILS = 1
    READ_DISCRETE_INPUTS = 2
    READ_HOLDING_REGISTERS = 3
    READ_INPUT_REGISTERS = 4
    WRITE_COIL = 5
    WRITE_REGISTER = 6
    WRITE_COILS = 15
    WRITE_REGISTERS = 16
    MASK_REGISTER = 22
    READ_WRITE_REGISTERS = 23


BIT_READS: Final = frozenset({Function.READ_COILS, Function.READ_DISCRETE_INPUTS})
READS: Final = frozenset({*BIT_READS, Function.READ_HOLDING_REGISTERS, Function.READ_INPUT_REGISTERS})
ERROR_BIT: Final = 0x80

_MOST_READ: Final = {1: 2000, 2: 2000, 3: 125, 4: 125, 23: 125}
_MOST_WRITTEN: Final = {15: 1968, 16: 123, 23: 121}
_THREE: Final = struct.Struct(">BHH")
_FOUR: Final = struct.Struct(">BHHH")
_TWICE: Final = struct.Struct(">BHHHHB")


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of a unit.

    `count` is the number of bits or registers read (0: nothing is read); `values` are the bits (0, 1) or registers
    written, for function 22 the and-mask and the or-mask; `write_address` is where function 23 writes.
    """

    function: Function
    address: int
    count: int = 0
    values: tuple[int, ...] = ()
    write_address: int = 0


@dataclass(frozen=True, slots=True)
class Question:
    """One request on its way: `pdu` is sent; the right answer begins with `head` and has `size` bytes."""

    function: int
    pdu: bytes
    head: bytes
    size: int

    @property
    def is_open(self) -> bool:
        """Nothing but the function of its answer is known (`size` is 0)."""
        return self.size == 0

    def is_answered_by(self, pdu: bytes) -> bool:
        """True for an answer of the right function and length; of a write, for one that repeats what was written."""
        return (len(pdu) == self.size or self.size == 0) and pdu.startswith(self.head)

    def refusal(self, pdu: bytes) -> int | None:
        """The exception code, when this is a refusal of this question."""
        return pdu[1] if len(pdu) == 2 and pdu[0] == self.function | ERROR_BIT else None


@lru_cache(maxsize=4096)
def reading(function: Function, address: int, count: int) -> Question:
    """The question of functions 1–4; the same polls come again and again, so they are built once.

    Raises:
        RejectedError: Too many for one request, or behind the last address.
    """
    return question(Request(function, address, count))


def question(request: Request) -> Question:
    """How a request is sent, and what its answer looks like.

    Raises:
        RejectedError: It does not fit into one request, or has values that cannot be sent; the text says what can.
    """
    _check(request)
    function, address, values = request.function, request.address, request.values
    if function in READS:
        size = (request.count + 7) // 8 if function in BIT_READS else 2 * request.count
        return Question(function, _THREE.pack(function, address, request.count), bytes([function, size]), 2 + size)
    if function is Function.READ_WRITE_REGISTERS:
        head = _TWICE.pack(function, address, request.count, request.write_address, len(values), 2 * len(values))
        size = 2 * request.count
        return Question(function, head + _words(values), bytes([function, size]), 2 + size)
    if function in (Function.WRITE_COILS, Function.WRITE_REGISTERS):
        data = _packed(values) if function is Function.WRITE_COILS else _words(values)
        head = _THREE.pack(function, address, len(values))
        return Question(function, head + bytes([len(data)]) + data, head, 5)
    if function is Function.MASK_REGISTER:
        pdu = _FOUR.pack(function, address, *values)
    else:
        pdu = _THREE.pack(function, address, values[0] * 0xFF00 if function is Function.WRITE_COIL else values[0])
    return Question(function, pdu, pdu, len(pdu))


def raw_question(pdu: bytes) -> Question:
    """The question of a request that somebody else has made; of one that we do not know, whatever its function answers.

    Raises:
        RejectedError: No PDU.
    """
    if not 1 <= len(pdu) <= MAX_PDU or not 1 <= pdu[0] < ERROR_BIT:
        raise RejectedError(f"a PDU is a function code, 1 to 127, and at most {MAX_PDU - 1} bytes behind it")
    try:
        return question(parse(pdu))
    except RejectedError:
        return Question(pdu[0], pdu, pdu[:1], 0)


def words(pdu: bytes) -> tuple[int, ...]:
    """The registers of an answer to 3, 4 or 23, in address order."""
    return struct.unpack(f">{pdu[1] // 2}H", pdu[2:])


def bits(pdu: bytes, count: int) -> list[bool]:
    """The first `count` bits of an answer to 1 or 2, in address order."""
    number = int.from_bytes(pdu[2:], "little")
    return [bool(number >> place & 1) for place in range(count)]


# ───────────────────────────── the other side ─────────────────────────────


def parse(pdu: bytes) -> Request:
    """A request as it arrived.

    Raises:
        RejectedError: No request that we know, or not a whole one.
    """
    try:
        return _parse(pdu)
    except (struct.error, IndexError, ValueError):
        raise RejectedError(f"not a Modbus request: {pdu[:16].hex(' ')}") from None


def answer(request: Request, content: Sequence[int] = ()) -> bytes:
    """The PDU that answers a request; `content` is what was read."""
    function = request.function
    if function in READS or function is Function.READ_WRITE_REGISTERS:
        data = _packed(content) if function in BIT_READS else _words(content)
        return bytes([function, len(data)]) + data
    return question(request).head


def refusal(function: int, code: int) -> bytes:
    """The PDU that refuses a request."""
    return bytes([function | ERROR_BIT, code])


def _parse(pdu: bytes) -> Request:
    function = Function(pdu[0])
    if function in READS:
        _, address, count = _THREE.unpack(pdu)
        request = Request(function, address, count)
    elif function is Function.READ_WRITE_REGISTERS:
        _, address, count, write_address, written, size = _TWICE.unpack(pdu[:10])
        if size != 2 * written:
            raise ValueError("byte count")
        request = Request(function, address, count, struct.unpack(f">{written}H", pdu[10:]), write_address)
    elif function is Function.MASK_REGISTER:
        _, address, *values = _FOUR.unpack(pdu)
        request = Request(function, address, values=tuple(values))
    elif function is Function.WRITE_COILS:
        _, address, count = _THREE.unpack(pdu[:5])
        if pdu[5] != (count + 7) // 8 or len(pdu) != 6 + pdu[5]:
            raise ValueError("byte count")
        number = int.from_bytes(pdu[6:], "little")
        request = Request(function, address, values=tuple(number >> place & 1 for place in range(count)))
    elif function is Function.WRITE_REGISTERS:
        _, address, count = _THREE.unpack(pdu[:5])
        if pdu[5] != 2 * count:
            raise ValueError("byte count")
        request = Request(function, address, values=struct.unpack(f">{count}H", pdu[6:]))
    else:
        _, address, value = _THREE.unpack(pdu)
        if function is Function.WRITE_COIL:
            if value not in (0, 0xFF00):
                raise ValueError("neither on nor off")
            value = int(value != 0)
        request = Request(function, address, values=(value,))
    _check(request)
    return request


def _check(request: Request) -> None:
    function, count, written = request.function, request.count, len(request.values)
    most = _MOST_READ.get(function)
    if most is not None and not 1 <= count <= most:
        raise RejectedError(f"{count} cannot be read at once; function {function} reads 1 to {most}")
    most = _MOST_WRITTEN.get(function, 2 if function is Function.MASK_REGISTER else 1)
    if function not in READS and not (written == most if most <= 2 else 1 <= written <= most):
        raise RejectedError(f"{written} values cannot be written at once; function {function} writes up to {most}")
    span = count or (1 if function is Function.MASK_REGISTER else written)
    if not 0 <= request.address <= 65536 - span:
        raise RejectedError(f"{span} from address {request.address} on: the last address is 65535")
    if function is Function.READ_WRITE_REGISTERS and not 0 <= request.write_address <= 65536 - written:
        raise RejectedError(f"{written} from address {request.write_address} on: the last address is 65535")
    highest = 1 if function in (Function.WRITE_COIL, Function.WRITE_COILS) else 0xFFFF
    if request.values and not 0 <= min(request.values) <= max(request.values) <= highest:
        raise RejectedError(f"values of function {function} are 0 to {highest}")


def _words(values: Sequence[int]) -> bytes:
    return struct.pack(f">{len(values)}H", *values)


def _packed(values: Sequence[int]) -> bytes:
    number = 0
    for place, value in enumerate(values):
        number |= bool(value) << place
    return number.to_bytes((len(values) + 7) // 8, "little")
