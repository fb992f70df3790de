"""Log lines that a peer cannot misuse: limited in number and length, and with every control character escaped.

What stays true: a flood of one kind of line (message and level) never silences another kind; what was left out is
counted in the next line of its kind, or in a line of its own when the kind has gone quiet or the logger is closed;
memory is bounded, whatever is logged. Locking rule: one thread.
"""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

MAX_KINDS = 64
"""Kinds of lines that are counted apart; ours are some twenty, and whoever invents more shares one count."""
MAX_TEXT = 1000
"""Characters of one value, or of one exception's text, that are shown: less than the largest packet."""
MAX_FRAMES = 50
"""The innermost frames of a traceback that are shown, each two lines: a peer may choose how deep a handler recurses."""
QUIET_AFTER = 5.0
"""Seconds without a line of its kind, after which those left out are reported by themselves."""

_MAX_CHAIN = 10  # exceptions behind one another, or beside one another in a group
_QUIET = 1.0  # seconds after which a kind's next line passes even if all lines together are too many
_CAUSE = "The above exception was the direct cause of the following exception:"
_CONTEXT = "During handling of the above exception, another exception occurred:"


def escape(text: object) -> str:
    """`text` on one line: control characters and what is not printable as escapes. For anything a peer chose."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))


def escape_traceback(error: BaseException) -> str:
    """As `traceback` prints it, but with the texts of exceptions on one line each, escaped and shortened."""
    shown = traceback.TracebackException(type(error), error, error.__traceback__, limit=-MAX_FRAMES)
    return "\n".join(_traceback_lines(shown, _MAX_CHAIN))


class Cancellable(Protocol):
    def cancel(self) -> object: ...


class LimitedLogger:
    """A `logging.Logger` that writes at most `lines_per_second` lines of one kind, and `total_per_second` lines of
    all kinds beside one line a second of each. A kind is a level and a message with its `%` places.

    `clock()` gives seconds. With `call_later(seconds, callback)`, as loops have it, lines left out are reported when
    their kind was quiet for `QUIET_AFTER` seconds; at most one such call is pending. `close()` reports the rest.
    """

    def __init__(
        self,
        logger: logging.Logger,
        clock: Callable[[], float],
        lines_per_second: float = 10.0,
        *,
        total_per_second: float = 50.0,
        call_later: Callable[[float, Callable[[], None]], Cancellable] | None = None,
    ) -> None:
        self.logger = logger
        self._clock = clock
        self._rate = lines_per_second
        self._total = _Bucket(total_per_second, clock())
        self._kinds: dict[tuple[int, str], _Kind] = {}
        self._others = _Kind(logging.WARNING, "lines of other kinds", lines_per_second, clock())
        self._call_later = call_later
        self._pending: Cancellable | None = None

    @property
    def suppressed(self) -> int:
        """Lines left out and not yet reported."""
        return sum(kind.suppressed for kind in self._all_kinds())

    def log(
        self,
        level: int,
        message: str,
        *values: object,
        extra: Mapping[str, object] | None = None,
        error: BaseException | None = None,
        stack: str | None = None,
    ) -> None:
        """As `Logger.log`. `values` that are no numbers are shown escaped; `error` brings its traceback, escaped
        where it shows texts; `stack` is shown below as it is.
        """
        if not self.logger.isEnabledFor(level):
            return
        now = self._clock()
        kind = self._kind(level, message, now)
        was_quiet, kind.last = now - kind.last >= _QUIET, now
        if not (kind.bucket.take(now) and (self._total.take(now) or was_quiet)):
            kind.suppressed += 1
            self._expect_quiet()
            return
        if kind.suppressed:
            message, values = f"{message} (and %d lines like it left out)", (*values, kind.suppressed)
            kind.suppressed = 0
        self._write(level, message, values, extra, error, stack)

    def close(self) -> None:
        """Report what was left out, and ask for no further calls."""
        self._call_later = None
        if self._pending is not None:
            self._pending.cancel()
            self._pending = None
        self._report(0.0)

    # -- small parts

    def _kind(self, level: int, message: str, now: float) -> _Kind:
        key = level, message
        kind = self._kinds.get(key)
        if kind is None:
            if len(self._kinds) >= MAX_KINDS:
                self._forget_quiet_kinds(now)
            if len(self._kinds) >= MAX_KINDS:
                return self._others
            kind = self._kinds[key] = _Kind(level, message, self._rate, now)
        return kind

    def _forget_quiet_kinds(self, now: float) -> None:
        """Their buckets are full again: nothing is lost with them."""
        for key, kind in list(self._kinds.items()):
            if not kind.suppressed and now - kind.last >= _QUIET:
                del self._kinds[key]

    def _all_kinds(self) -> list[_Kind]:
        return [*self._kinds.values(), self._others]

    def _expect_quiet(self) -> None:
        if self._pending is None and self._call_later is not None:
            self._pending = self._call_later(QUIET_AFTER, self._look_for_quiet)

    def _look_for_quiet(self) -> None:
        self._pending = None
        self._report(QUIET_AFTER)
        if self.suppressed:
            self._expect_quiet()

    def _report(self, quiet: float) -> None:
        """A line for each kind of which lines were left out, and none asked for within `quiet` seconds."""
        now = self._clock()
        for kind in self._all_kinds():
            if kind.suppressed and now - kind.last >= quiet:
                values = (kind.suppressed, re.sub(r"%\w", "...", kind.message))
                kind.suppressed = 0
                if self.logger.isEnabledFor(kind.level):
                    self._write(kind.level, "left out %d lines like: %s", values)

    def _write(
        self,
        level: int,
        message: str,
        values: tuple[object, ...],
        extra: Mapping[str, object] | None = None,
        error: BaseException | None = None,
        stack: str | None = None,
    ) -> None:
        shown = tuple(value if isinstance(value, (int, float)) else _shortened(escape(value)) for value in values)
        exc_info = None if error is None else (type(error), error, error.__traceback__)
        file, line, function, _ = self.logger.findCaller(stacklevel=3)
        record = self.logger.makeRecord(
            self.logger.name, level, file, line, message, shown, exc_info, function, extra, stack
        )
        if error is not None:
            record.exc_text = escape_traceback(error)  # formatters take it when it is there
        self.logger.handle(record)


class _Bucket:
    """A token bucket: `rate` a second, and as many at once."""

    __slots__ = ("rate", "refilled", "tokens")

    def __init__(self, rate: float, now: float) -> None:
        self.rate = self.tokens = rate
        self.refilled = now

    def take(self, now: float) -> bool:
        self.tokens = min(self.rate, self.tokens + (now - self.refilled) * self.rate)
        self.refilled = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class _Kind:
    """Lines of one level and message. `last` is when one was last asked for."""

    __slots__ = ("bucket", "last", "level", "message", "suppressed")

    def __init__(self, level: int, message: str, rate: float, now: float) -> None:
        self.level = level
        self.message = message
        self.bucket = _Bucket(rate, now)
        self.last = now - _QUIET
        self.suppressed = 0


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}... ({len(text)} characters)"


def _traceback_lines(error: traceback.TracebackException, depth: int) -> Iterator[str]:
    before, said = error.__cause__, _CAUSE
    if before is None and not error.__suppress_context__:
        before, said = error.__context__, _CONTEXT
    if before is not None and depth:
        yield from _traceback_lines(before, depth - 1)
        yield from ("", said, "")
    if error.stack:
        yield "Traceback (most recent call last):"
        yield "".join(error.stack.format()).rstrip("\n")
    yield _shortened(escape("".join(error.format_exception_only()).rstrip("\n")))
    for number, member in enumerate(error.exceptions or () if depth else (), 1):
        if number > _MAX_CHAIN:
            yield f"  and {len(error.exceptions or ()) - _MAX_CHAIN} more"
            break
        yield f"  member {number} of the group:"
        yield from (f"    {line}" for text in _traceback_lines(member, depth - 1) for line in text.split("\n"))
