"""Devices that speak unasked: since when nothing came of each, and what came on the line instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from drivers.serial.config import SerialConfig
from drivers.serial.frames import MAX_BAD_BYTES, Seen
from drivers.serial.guess import hint, other_end
from drivers.serial.notation import shown
from drivers.serial.proof import Proof
from gateway.ports import Clock

NO_FRAME: Final = "no frame of this kind among them"


class Silences:
    """`after_s`: device to how long it may say nothing; each such time is told once."""

    def __init__(self, after_s: Mapping[str, float], clock: Clock) -> None:
        self._after_s, self._clock = after_s, clock
        self._since_s: dict[str, float] = {}

    def begin(self) -> None:
        """From now on they are listened to."""
        self._since_s = dict.fromkeys(self._after_s, self._clock.monotonic_s())

    def heard(self, device: str) -> float:
        """It spoke just now; when that was, monotonic."""
        now_s = self._since_s[device] = self._clock.monotonic_s()
        return now_s

    def next(self) -> tuple[str, float] | None:
        """A device that is silent, and for how long it may be; its time begins anew."""
        now_s = self._clock.monotonic_s()
        for device, since_s in self._since_s.items():
            after_s = self._after_s[device]
            if now_s - since_s >= after_s:
                self._since_s[device] = now_s
                return device, after_s
        return None

    def wait_s(self) -> float | None:
        """Until the next device counts as silent; None: there is none that speaks unasked."""
        now_s = self._clock.monotonic_s()
        return min((at_s + self._after_s[name] - now_s for name, at_s in self._since_s.items()), default=None)


def what_came(
    config: SerialConfig, proof: Proof, seen: Seen, recent: bytes, bad_frames: int, errors: tuple[int, int, int]
) -> tuple[str, str]:
    """Why bytes are no frame, and what to try: `recent` are the last of them, at least one; of the bad frames in `seen`
    so many are meant; `errors` are those of the UART.
    """
    reason = f"{bad_frames} bad frames, the last: {seen.last_reason}" if bad_frames else NO_FRAME
    question = other_end(recent, config.frame.end_mark) if config.frame.kind == "delimiter" else None
    if bad_frames and len(seen.last_bad) < MAX_BAD_BYTES and (others := proof.others(seen.last_bad)):
        question = f"the last bad frame would be good with checksum {' or '.join(others)}"
    question = question or hint(recent, config.settings_text, config.baudrate, errors)
    return reason, f"at the end {shown(recent)}; {question}"
