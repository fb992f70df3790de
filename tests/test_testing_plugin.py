"""The pytest plugin: its fixtures in tests of others, with pytest-asyncio and without."""

import subprocess
import sys
from importlib import metadata

import pytest
from plugin import find_plugin

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.no_sanitizer


def is_an_entry_point():
    return any(point.value == "pytest_gamenet" for point in metadata.entry_points(group="pytest11"))


@pytest.fixture
def run(pytester, monkeypatch):
    """Runs a test module in a pytest of its own, with gamenet's plugin."""
    find_plugin(monkeypatch)

    def run(code, *options, conftest=""):
        pytester.makepyfile(code)
        pytester.makeconftest(conftest)
        plugin = () if is_an_entry_point() else ("-p", "pytest_gamenet")
        return pytester.runpytest_subprocess("-q", *plugin, "-p", "no:cacheprovider", *options)

    return run


PLAIN = """
    import asyncio, gamenet

    server = gamenet.Server(idle_timeout=1800)
    server.on(1)(lambda session, packet: session.reply(packet))

    def test_an_hour(gamenet_leak_check, gamenet_loop, gamenet_net, gamenet_clock):
        async def scenario():
            await gamenet_net.serve(server)
            client = await gamenet_net.connect()
            assert (await client.request(1, b"hello")).body == b"hello"
            await asyncio.sleep(3600)
            assert client.close_reason == "peer_closed"

        gamenet_loop.run_until_complete(scenario())
        assert gamenet_clock() >= 3600
        assert gamenet_loop.time() == gamenet_clock()

    def test_a_leak(gamenet_leak_check, gamenet_loop):
        async def scenario():
            asyncio.create_task(asyncio.sleep(3600), name="the left one")

        gamenet_loop.run_until_complete(scenario())

    def test_a_left_server(gamenet_leak_check, gamenet_loop):
        from gamenet.testing import MemoryNetwork

        async def scenario():
            net = MemoryNetwork()
            await net.serve(server)
            gamenet_loop.left = await net.open()  # from 3.13 on, a stream that nobody keeps closes its connection

        gamenet_loop.run_until_complete(scenario())
"""


@pytest.mark.parametrize("options", [("-p", "no:asyncio"), ()], ids=["without pytest-asyncio", "with it"])
def test_plain_functions(run, options):
    result = run(PLAIN, *options)
    result.assert_outcomes(passed=3, errors=2)
    result.stdout.fnmatch_lines(["*LeakError: left behind at the end:*", "*1 task(s) not done: the left one in *sleep*"])
    result.stdout.fnmatch_lines(["*1 session(s) of server 0x* open: <Session * ('127.0.0.1', 49152) open>*"])


ASYNC = """
    import asyncio, gamenet, pytest

    @pytest.fixture
    async def server():
        server = gamenet.Server()
        server.on(1)(lambda session, packet: session.reply(packet))
        async with server:
            yield server

    async def test_memory(gamenet_leak_check, gamenet_net):
        server = gamenet.Server()
        server.on(1)(lambda session, packet: session.reply(packet))
        await gamenet_net.serve(server)
        await (await gamenet_net.connect()).request(1)

    async def test_order_of_net_and_check(gamenet_net, gamenet_leak_check):
        await gamenet_net.serve(gamenet.Server())
        await gamenet_net.connect()

    @pytest.mark.usefixtures("gamenet_leak_check")
    async def test_sockets(server):
        async with gamenet.connect("127.0.0.1", server.port) as client:
            await client.request(1)

    @pytest.mark.usefixtures("gamenet_leak_check")
    async def test_a_leak():
        asyncio.get_running_loop().left = asyncio.create_task(asyncio.sleep(3600), name="the left one")

    async def test_a_complaint(gamenet_leak_check):
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
"""

VIRTUAL = """
    from gamenet.testing import VirtualTimeLoop

    def pytest_asyncio_loop_factories(config, item):
        return {"virtual": VirtualTimeLoop}
"""


def test_async_functions(run):
    result = run(ASYNC, "-o", "asyncio_mode=auto")
    result.assert_outcomes(passed=5, errors=2)
    result.stdout.fnmatch_lines(["*1 task(s) not done: the left one in *sleep*"])
    result.stdout.fnmatch_lines(["*exception handler: *ZeroDivisionError*"])


def test_async_functions_in_virtual_time(run):
    code = """
        import asyncio, gamenet

        async def test_a_year(gamenet_leak_check, gamenet_net):
            await gamenet_net.serve(gamenet.Server(idle_timeout=None))
            client = await gamenet_net.connect()
            await asyncio.sleep(86_400 * 365)
            assert client.is_connected
    """
    run(code, "-o", "asyncio_mode=auto", conftest=VIRTUAL).assert_outcomes(passed=1)


def test_async_functions_without_pytest_asyncio_are_told_what_to_do(run):
    code = """
        async def test_something(gamenet_leak_check):
            pass
    """
    result = run(code, "-p", "no:asyncio")
    result.stdout.fnmatch_lines(["*serve async tests through pytest-asyncio, which is not active*"])


def test_loading_it_imports_nothing_of_gamenet(run):
    code = """
        import sys

        def test_nothing_is_loaded(pytestconfig):
            assert pytestconfig.pluginmanager.hasplugin("pytest_gamenet") or pytestconfig.pluginmanager.hasplugin("gamenet")
            assert [name for name in sys.modules if name.partition(".")[0] == "gamenet"] == []
            assert "asyncio" not in sys.modules
    """
    run(code, "-p", "no:asyncio", "-p", "no:benchmark", "-p", "no:hypothesispytest", "-p", "no:anyio").assert_outcomes(passed=1)


def test_gamenet_testing_needs_no_pytest():
    code = (
        "import sys; sys.modules['pytest'] = sys.modules['pytest_asyncio'] = None\n"
        "import gamenet; assert 'gamenet.testing' not in sys.modules\n"
        "import gamenet.testing; print(sorted(gamenet.testing.__all__) == gamenet.testing.__all__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "True", done.stderr


def test_every_public_name_is_there_and_documented(gamenet):
    for name in gamenet.testing.__all__:
        thing = getattr(gamenet.testing, name)
        assert thing.__doc__, name
        for attribute in vars(thing) if isinstance(thing, type) else ():
            method = getattr(thing, attribute)
            if callable(method) and not attribute.startswith("_") and "asyncio" not in str(thing.__mro__[1]):
                assert method.__doc__, f"{name}.{attribute}"
