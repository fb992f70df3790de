"""The pytest plugin: fixtures around `gamenet.testing`, for the tests of game servers.

What stays true: loading it costs nothing, for pytest loads it wherever gamenet is installed: neither gamenet nor
asyncio is imported before a fixture is used, so coverage sees their first lines too. (That is why it is a module
beside the package.) It needs no other plugin; with pytest-asyncio its fixtures serve `async def` tests as well.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from gamenet.testing import FakeClock, MemoryNetwork, VirtualTimeLoop, leak_check

_ASYNC_LEAK_CHECK, _ASYNC_NET = "_gamenet_async_leak_check", "_gamenet_async_net"


@pytest.fixture
def gamenet_clock() -> FakeClock:
    """A clock that only the test moves; `gamenet_loop` goes by it."""
    from gamenet.testing import FakeClock

    return FakeClock()


@pytest.fixture
def gamenet_loop(gamenet_clock: FakeClock) -> Iterator[VirtualTimeLoop]:
    """A virtual-time event loop for tests that are plain functions: `gamenet_loop.run_until_complete(...)`."""
    import asyncio

    from gamenet.testing import VirtualTimeLoop

    loop = VirtualTimeLoop(gamenet_clock)
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.get_loop()
        yield loop


@pytest.fixture
def gamenet_leak_check(request: pytest.FixtureRequest) -> Iterator[leak_check]:
    """Fails the test if anything is left at its end: see `gamenet.testing.leak_check`, which it gives.

    Name it first, or in `pytest.mark.usefixtures`, so that it ends after the fixtures which stop things.
    """
    if _is_async(request):
        yield _async_fixture(request, _ASYNC_LEAK_CHECK)
        return
    from gamenet.testing import leak_check

    loop: VirtualTimeLoop = request.getfixturevalue("gamenet_loop")
    check = leak_check()
    loop.run_until_complete(check.__aenter__())
    yield check
    loop.run_until_complete(check.__aexit__(None, None, None))


@pytest.fixture
def gamenet_net(request: pytest.FixtureRequest) -> Iterator[MemoryNetwork]:
    """A `MemoryNetwork`: `await gamenet_net.serve(server)`, then `await gamenet_net.connect()`.

    Clients are closed and servers stopped at the end of the test, before `gamenet_leak_check` looks.
    """
    if "gamenet_leak_check" in request.fixturenames:
        request.getfixturevalue("gamenet_leak_check")
    if _is_async(request):
        yield _async_fixture(request, _ASYNC_NET)
        return
    from gamenet.testing import MemoryNetwork

    loop: VirtualTimeLoop = request.getfixturevalue("gamenet_loop")
    network = MemoryNetwork()
    yield network
    loop.run_until_complete(network.close())


def pytest_configure(config: pytest.Config) -> None:
    """Add what `async def` tests need, if pytest-asyncio runs them."""
    if any(map(config.pluginmanager.hasplugin, ("asyncio", "pytest_asyncio", "pytest_asyncio.plugin"))):
        config.pluginmanager.register(_async_fixtures(), "gamenet-asyncio")


def _is_async(request: pytest.FixtureRequest) -> bool:
    return inspect.iscoroutinefunction(request.function)


def _async_fixture(request: pytest.FixtureRequest, name: str) -> Any:
    """The fixture that lives in the loop of the test."""
    if not request.config.pluginmanager.hasplugin("gamenet-asyncio"):
        pytest.fail(
            "gamenet's fixtures serve async tests through pytest-asyncio, which is not active; "
            "use `async with gamenet.testing.leak_check()` and `gamenet.testing.serve(server)` instead",
            pytrace=False,
        )
    return request.getfixturevalue(name)


def _async_fixtures() -> ModuleType:
    import pytest_asyncio

    async def async_leak_check() -> AsyncIterator[leak_check]:
        from gamenet.testing import leak_check

        async with leak_check() as check:
            yield check

    async def async_net() -> AsyncIterator[MemoryNetwork]:
        from gamenet.testing import MemoryNetwork

        async with MemoryNetwork() as network:
            yield network

    plugin = ModuleType("pytest_gamenet_asyncio")
    for name, function in ((_ASYNC_LEAK_CHECK, async_leak_check), (_ASYNC_NET, async_net)):
        setattr(plugin, name, pytest_asyncio.fixture(loop_scope="function", name=name)(function))
    return plugin
