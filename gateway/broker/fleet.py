"""Devices that others speak for, by name: made when they are first heard of, then with an open session each.

While a new device is on its way to the disk, what is said of it waits behind it, in its order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from gateway.broker.gateway_packet import Trouble, WaitingPacket
from gateway.domain.entity import Device
from gateway.errors import FullError, RejectedError
from gateway.ports import DeviceChannel, DeviceInlet, DeviceSession, Receipt
from gateway.supervise import follow

Act = Callable[[DeviceSession], Receipt | None]
ChannelT = TypeVar("ChannelT", bound=DeviceChannel)
_MAX_WAITING: Final = 10_000


class Member(Generic[ChannelT]):
    """One device; `session` is None until it is durable."""

    __slots__ = ("channel", "name", "session", "waiting")

    def __init__(self, name: str, channel: ChannelT) -> None:
        self.name, self.channel = name, channel
        self.session: DeviceSession | None = None
        self.waiting: list[tuple[Act, Receipt]] = []


class Fleet(Generic[ChannelT]):
    """`creator`: the gateway that new devices are related to, None for none. `most`: open at the same time."""

    def __init__(self, inlet: DeviceInlet, creator: Callable[[], Device | None], most: int) -> None:
        self._inlet, self._creator, self._most = inlet, creator, most
        self._members: dict[str, Member[ChannelT]] = {}
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._members)

    def members(self) -> list[Member[ChannelT]]:
        """Those that are open, or being made."""
        return list(self._members.values())

    def get(self, name: str) -> Member[ChannelT] | None:
        """The open one of this name."""
        return self._members.get(name)

    def open(self, name: str, profile: str, new_channel: Callable[[str], ChannelT]) -> Member[ChannelT]:
        """The device of this name; `profile` is for a new one.

        Raises:
            FullError: There are as many as may be.
            RejectedError: The name cannot be used, or the device was deleted meanwhile.
        """
        member = self._members.get(name)
        if member is not None:
            return member
        if len(self._members) >= self._most:
            raise FullError(f"{self._most} devices are open already: mappings.max_devices")
        device, making = self._inlet.sub_device(self._creator(), name, profile)
        member = Member(name, new_channel(name))
        if making is None:
            self._begin(member, device)
        else:
            making.add_done_callback(lambda done: self._made(member, device, done))
        self._members[name] = member
        return member

    def act(self, member: Member[ChannelT], act: Act, waiting: WaitingPacket) -> None:
        """With the device's session, now or when the device is durable; `waiting` hears when it is done.

        Raises:
            FullError: Too much waits for a device that is being made.
        """
        if member.session is None:
            if len(member.waiting) >= _MAX_WAITING:
                raise FullError("too much waits for a device that is being made")
            receipt: Receipt = asyncio.get_running_loop().create_future()
            member.waiting.append((act, receipt))
            waiting.add(member.name, receipt, Trouble.NOT_MADE)
        elif (done := act(member.session)) is not None:
            waiting.add(member.name, done)

    def end(self, member: Member[ChannelT]) -> None:
        """Its session ends; the next thing that is said of it opens it again."""
        self.dropped(member)
        if member.session is not None:
            member.session.close()

    def dropped(self, member: Member[ChannelT]) -> None:
        """The session was ended from the other side."""
        if self._members.get(member.name) is member:
            del self._members[member.name]

    def close(self) -> None:
        """Nobody speaks for them any more."""
        self._is_closed = True
        for member in self.members():
            self.end(member)

    def _begin(self, member: Member[ChannelT], device: Device) -> DeviceSession:
        session = member.session = self._inlet.open_sub_session(device, member.channel)
        session.subscribe_attributes(True)
        session.subscribe_rpc(True)
        return session

    def _made(self, member: Member[ChannelT], device: Device, done: Receipt) -> None:
        waiting, member.waiting = member.waiting, []
        error: BaseException | None = None
        if done.cancelled() or self._is_closed:
            for _, receipt in waiting:
                receipt.cancel()
            return
        try:
            if (error := done.exception()) is None:
                session = self._begin(member, device)
        except RejectedError as refused:
            error = refused
        if error is not None:
            self.dropped(member)
        for act, receipt in waiting:
            if error is not None:
                receipt.set_exception(error)
            else:
                follow(act(session), receipt)
