"""Running a module again while its handlers are in use: all of its registrations change in one step, or none does.

What stays true: until the module has run to its end nobody sees what it registers; if it fails, its registrations
and its names are what they were.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from types import FrameType, ModuleType
from typing import Any


class Registry(ABC):
    """What modules register with. Between `stage()` and `commit()` or `roll_back()` registrations gather unseen."""

    @abstractmethod
    def stage(self, module: str) -> None:
        """Start gathering, without what `module` registered before."""

    @property
    @abstractmethod
    def registrants(self) -> Sequence[str | None]:
        """By which module each registration was made that was gathered."""

    @abstractmethod
    def commit(self) -> None:
        """Let what was gathered take effect, in one step; never fails."""

    @abstractmethod
    def roll_back(self) -> None:
        """Forget what was gathered."""


class Hooks(Registry):
    """Functions to call at some event, in the order they were added."""

    def __init__(self) -> None:
        self._hooks: list[tuple[Callable[..., Any], str | None]] = []
        self._staged: list[tuple[Callable[..., Any], str | None]] | None = None
        self._kept = 0

    def add(self, hook: Callable[..., Any]) -> None:
        """Have `hook` called too; while a module is being reloaded: once that is done. `TypeError` for what is no plain
        function: nobody would await a coroutine.
        """
        if not callable(hook) or inspect.iscoroutinefunction(hook):
            raise TypeError(f"a hook must be a plain function, got {_kind_of(hook)}")
        hooks = self._hooks if self._staged is None else self._staged
        hooks.append((hook, running_module()))

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        """Those that take effect now. A reload does not change an iteration that has begun."""
        return (hook for hook, _ in self._hooks)

    def stage(self, module: str) -> None:
        self._staged = [entry for entry in self._hooks if entry[1] != module]
        self._kept = len(self._staged)

    @property
    def registrants(self) -> Sequence[str | None]:
        return [module for _, module in (self._staged or [])[self._kept :]]

    def commit(self) -> None:
        assert self._staged is not None
        self._hooks, self._staged = self._staged, None

    def roll_back(self) -> None:
        self._staged = None


def _kind_of(hook: object) -> str:
    return f"async def {getattr(hook, '__name__', hook)}" if callable(hook) else type(hook).__name__


def running_module() -> str | None:
    """The name of the module whose top level runs, in this thread, nearest to the caller; None if none does."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "<module>":
            name = frame.f_globals.get("__name__")
            return name if isinstance(name, str) else None
        frame = frame.f_back
    return None


def reload_module(module: ModuleType | str, registries: Sequence[Registry]) -> None:
    """Run `module`, or the imported module of that name, again; see `Server.reload`."""
    module = _imported(module)
    names, imported = dict(vars(module)), set(sys.modules)
    for registry in registries:
        registry.stage(module.__name__)
    try:
        importlib.invalidate_caches()
        importlib.reload(module)
        if not any(registry.registrants for registry in registries):
            raise RuntimeError(_nothing_registered(module.__name__))
    except BaseException:
        registrants = {name for registry in registries for name in registry.registrants}
        for registry in registries:
            registry.roll_back()
        _forget((registrants & set(sys.modules)) - imported)
        _restore(module, names)
        raise
    for registry in registries:
        registry.commit()


def _imported(module: ModuleType | str) -> ModuleType:
    if isinstance(module, ModuleType):
        return module
    if not isinstance(module, str):
        raise TypeError(f"module must be a module or its name, got {type(module).__name__}")
    if module not in sys.modules:
        raise ImportError(f"the module {module!r} is not imported: there is nothing to reload", name=module)
    return sys.modules[module]


def _nothing_registered(name: str) -> str:
    return (
        f"the module {name!r} registered nothing with this server, so nothing was changed; a module that makes the "
        "server itself makes another one when it runs again: move the handlers into a module that imports the server"
    )


def _restore(module: ModuleType, names: dict[str, Any]) -> None:
    """Give the module its old names back; it is never without them, for what is freed here may run its functions."""
    vars(module).update(names)
    for name in set(vars(module)) - set(names):
        del vars(module)[name]


def _forget(modules: set[str | None]) -> None:
    """Modules that were imported and registered handlers in vain: the next import must run them again."""
    for name in modules:
        assert name is not None
        del sys.modules[name]
        parent, _, child = name.rpartition(".")
        if parent in sys.modules:
            vars(sys.modules[parent]).pop(child, None)
