"""What waits for a slow receiver, frame by frame, and what of it may be left out.

What stays true: frames leave in the order they came; only what a policy names is left out, and it is counted. Only
sessions whose peer does not read pay for this.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal, get_args

from gamenet import errors
from gamenet._core import HeaderCodec, Ledger
from gamenet.packets import Packet, packet_id_of

FRAME_COST = 256
"""Bytes that a waiting frame takes beside its own: it is an object, and has its place in one or two tables."""

SlowPolicy = Literal["disconnect", "drop_oldest", "drop_newest", "keep_latest"]


@dataclass(frozen=True, slots=True)
class _Rule:
    policy: SlowPolicy
    key: tuple[slice, ...] = ()  # of the body


class SlowPolicies:
    """Which packets may be left out for a slow receiver, by packet id. Others are `"disconnect"`."""

    def __init__(self) -> None:
        self._rules: dict[int, _Rule] = {}

    def __bool__(self) -> bool:
        return bool(self._rules)

    def set(self, packet: type[Packet] | int, policy: SlowPolicy, key: str | tuple[str, ...] = ()) -> None:
        """`key` names the fields by which `"keep_latest"` tells packets apart: the latest of each is kept.

        `ValueError` for another policy, or a key that is of no use; `AttributeError` for a field that is not there.
        """
        if policy not in get_args(SlowPolicy):
            raise ValueError(f"policy is {policy!r}, not one of {', '.join(get_args(SlowPolicy))}")
        packet_id = packet_id_of(packet)
        names = (key,) if isinstance(key, str) else key
        if names and policy != "keep_latest":
            raise ValueError(f"a key is for 'keep_latest', not for {policy!r}")
        if names and not isinstance(packet, type):
            raise ValueError("a key needs a packet class: a bare id has no fields")
        slices = tuple(_slice_of(packet, name) for name in names) if isinstance(packet, type) else ()
        if policy == "disconnect":
            self._rules.pop(packet_id, None)
        else:
            self._rules[packet_id] = _Rule(policy, slices)

    def rule_of(self, packet_id: int) -> _Rule | None:
        """The rule of an id; None: it must not be left out."""
        return self._rules.get(packet_id)


def _slice_of(packet: type[Packet], name: str) -> slice:
    for field in packet._struct.fields:
        if field.name == name:
            return slice(field.offset, field.offset + field.size)
    raise AttributeError(f"{packet.__name__} has no field {name!r}")


class Backlog:
    """Frames that wait. Above `limit` bytes, or `max_held_size` with what keeping them takes (None: no limit), the
    oldest of `drop_oldest` go, and `drop_newest` are not taken.
    """

    def __init__(
        self, policies: SlowPolicies, limit: int, ledger: Ledger, max_held_size: int | None = None
    ) -> None:
        self.size = 0
        self._policies = policies
        self._limit = limit
        self._max_held_size = sys.maxsize if max_held_size is None else max_held_size
        self._ledger = ledger
        self._count = 0  # of frames so far: their numbers, and keys of those that only another frame can replace
        self._frames: OrderedDict[object, bytes] = OrderedDict()
        self._old: OrderedDict[int, None] = OrderedDict()  # numbers of those that may be dropped

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def held_size(self) -> int:
        """Bytes of memory that the frames take, about: many small ones take far more than they bring."""
        return self.size + FRAME_COST * len(self._frames)

    def add(self, codec: HeaderCodec, frame: bytes) -> bool:
        """Add whole packets; False if they were left out."""
        self._count += 1
        key: object = self._count
        rule, packet_id, body = self._look_into(codec, frame)
        if rule is not None and rule.policy == "drop_newest" and not self._has_room(1, len(frame)):
            self._ledger.dropped_newest += 1
            return False
        if rule is not None and rule.policy == "drop_oldest":
            self._old[self._count] = None
        elif rule is not None and rule.policy == "keep_latest":
            key = (packet_id, *(body[part] for part in rule.key))
            self._drop_elder(key)
        self._frames[key] = frame
        self.size += len(frame)
        self._make_room()
        return True

    def take(self, max_size: int) -> list[bytes]:
        """The oldest frames, at least one if there is any, up to about `max_size` bytes."""
        taken: list[bytes] = []
        size = 0
        while self._frames and size < max_size:
            key, frame = self._frames.popitem(last=False)
            if isinstance(key, int):
                self._old.pop(key, None)
            size += len(frame)
            taken.append(frame)
        self.size -= size
        return taken

    def _look_into(self, codec: HeaderCodec, frame: bytes) -> tuple[_Rule | None, int, bytes]:
        """The rule for a frame, the packet's id and its body; no rule for several packets, or what is none."""
        try:
            packet_id, start, end, packet_size = codec.locate(frame)
        except (ValueError, errors.InvalidPacketError):
            return None, 0, b""
        rule = self._policies.rule_of(packet_id) if packet_size == len(frame) else None
        return rule, packet_id, frame[start:end] if rule is not None and rule.key else b""

    def _drop_elder(self, key: object) -> None:
        elder = self._frames.pop(key, None)
        if elder is not None:
            self.size -= len(elder)
            self._ledger.dropped_latest += 1

    def _has_room(self, frames: int = 0, size: int = 0) -> bool:
        """Whether it stays within its limits with so many more frames of so many bytes."""
        held_size = self.held_size + FRAME_COST * frames + size
        return self.size + size <= self._limit and held_size <= self._max_held_size

    def _make_room(self) -> None:
        while self._old and not self._has_room():
            number, _ = self._old.popitem(last=False)
            self.size -= len(self._frames.pop(number))
            self._ledger.dropped_oldest += 1
