"""Log lines that a peer cannot misuse: limited in number, and with every control character escaped.

What stays true: at most `lines_per_second` lines a second leave one logger of ours, and what was left out is
counted in the next line.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping


def escape(text: object) -> str:
    """`text` on one line: control characters and what is not printable as escapes. For anything a peer chose."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))


class LimitedLogger:
    """A `logging.Logger` behind a token bucket of `lines_per_second`; `clock()` gives seconds."""

    def __init__(self, logger: logging.Logger, clock: Callable[[], float], lines_per_second: float = 10.0) -> None:
        self.logger = logger
        self.suppressed = 0
        self._clock = clock
        self._rate = lines_per_second
        self._tokens = lines_per_second
        self._refilled = clock()

    def log(
        self,
        level: int,
        message: str,
        *values: object,
        extra: Mapping[str, object] | None = None,
        error: BaseException | None = None,
    ) -> None:
        """As `Logger.log`; `values` are escaped when they are text, `error` brings its traceback."""
        if not self.logger.isEnabledFor(level):
            return
        if not self._take_token():
            self.suppressed += 1
            return
        if self.suppressed:
            message, values = f"{message} (and %d lines like it left out)", (*values, self.suppressed)
            self.suppressed = 0
        shown = [escape(value) if isinstance(value, str) else value for value in values]
        self.logger.log(level, message, *shown, extra=extra, exc_info=error)

    def _take_token(self) -> bool:
        now = self._clock()
        self._tokens = min(self._rate, self._tokens + (now - self._refilled) * self._rate)
        self._refilled = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
