"""How far the run is: a bar with rich if it is installed, else one line that is overwritten; nothing without a
terminal. What stays true: it draws only when told to, so no thread of ours takes time from what is measured.
"""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Step = Callable[[str], None]


@contextmanager
def progress(steps: int) -> Iterator[Step]:
    """Gives a function to call with what comes next, `steps` times."""
    if not sys.stderr.isatty():
        yield lambda text: None
    elif importlib.util.find_spec("rich"):
        with _bar(steps) as step:
            yield step
    else:
        with _line(steps) as step:
            yield step


@contextmanager
def _bar(steps: int) -> Iterator[Step]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), TimeRemainingColumn(), TextColumn("left; {task.description}"))
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False, transient=True) as bar:
        task = bar.add_task("", total=steps)
        started = False

        def step(text: str) -> None:
            nonlocal started
            bar.update(task, description=text, advance=1 if started else 0, refresh=True)
            started = True

        yield step


@contextmanager
def _line(steps: int) -> Iterator[Step]:
    done = 0

    def step(text: str) -> None:
        nonlocal done
        done += 1
        print(f"\r\x1b[K{done} of {steps}: {text}", end="", file=sys.stderr, flush=True)

    try:
        yield step
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
