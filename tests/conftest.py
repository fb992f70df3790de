"""Both twins for every test, and an end of every asyncio test that leaves nothing behind."""

import asyncio
import importlib
import importlib.util
import os
import random
import socket
import ssl
import sys
import sysconfig
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

# a child's cwd, the checkout, must not hide the installed package
os.environ.setdefault("PYTHONSAFEPATH", "1")
if os.environ.get("GAMENET_NO_EXTENSIONS") == "1":
    os.environ["GAMENET_PURE"] = "1"

HAS_INTEROP = importlib.util.find_spec("mcstatus") is not None
collect_ignore = [] if HAS_INTEROP else ["interop"]

PURE_ONLY = os.environ.get("GAMENET_PURE") == "1"
TESTED_TWIN = os.environ.get("GAMENET_TESTED_TWIN")  # a sanitizer has nothing to see in the pure one
TWINS = ["pure"] if PURE_ONLY else ["pure", "compiled"]


def twin_module(name):
    """`gamenet._pure` or `gamenet._compiled`."""
    return importlib.import_module(f"gamenet._{name}")


_packages = {}


def package(name):
    """The whole package on one twin: a second copy of its modules where the default one is the other twin."""
    if name not in _packages:
        ours = {key: module for key, module in sys.modules.items() if key.partition(".")[0] == "gamenet"}
        before = os.environ.get("GAMENET_PURE")
        for key in ours:
            # an extension is loaded once in a process; layouts are data, made once for both
            if not key.startswith("gamenet._compiled") and key != "gamenet.layout":
                del sys.modules[key]
        os.environ["GAMENET_PURE"] = "1" if name == "pure" else "0"
        try:
            _packages[name] = importlib.import_module("gamenet")
            importlib.import_module("gamenet.testing")
        finally:
            if before is None:
                del os.environ["GAMENET_PURE"]
            else:
                os.environ["GAMENET_PURE"] = before
            for key in [key for key in sys.modules if key.partition(".")[0] == "gamenet"]:
                del sys.modules[key]
            sys.modules.update(ours)
    assert _packages[name].backend == name
    return _packages[name]


if not PURE_ONLY:
    _packages["compiled"] = importlib.import_module("gamenet")
    importlib.import_module("gamenet.testing")


def pytest_report_header():
    left_out = [] if HAS_INTEROP else ["left out: tests/interop, which needs gamenet[interop]"]
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        left_out.append("free-threaded, " + ("but something brought the GIL back" if has_gil() else "without a GIL"))
    return left_out


def has_gil():
    """Whether threads take turns: any extension that does not say otherwise makes a free-threaded Python do that."""
    return getattr(sys, "_is_gil_enabled", lambda: True)()


@pytest.fixture(params=TWINS)
def core(request):
    """The classes of one twin, without the layers above."""
    return twin_module(request.param)


@pytest.fixture(params=TWINS)
def gamenet(request):
    """The package on one twin."""
    return package(request.param)


@pytest.fixture
def every_gamenet():
    """The package on each twin, for what must come out the same."""
    return [package(name) for name in TWINS]


@pytest.fixture
def rng(request):
    """Randomness whose seed is in the test's output when it fails; GAMENET_SEED repeats it."""
    seed = int(os.environ.get("GAMENET_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"GAMENET_SEED={seed}")
    return random.Random(seed)


def pytest_asyncio_loop_factories(config, item):
    """Every asyncio test runs on each loop that is installed."""
    fast = [name for name in ("uvloop", "winloop") if importlib.util.find_spec(name)]
    return {
        "asyncio": asyncio.new_event_loop,
        **{name: importlib.import_module(name).new_event_loop for name in fast},
    }


class Net:
    """Servers and clients of one test. When it ends, everything they used must be given back."""

    def __init__(self, gamenet, transport, stack, check):
        self.gamenet = gamenet
        self.transport = transport
        self.stack = stack
        self.check = check
        self.tls = (None, None)  # the contexts of servers and clients; fixture `secure`

    async def server(self, start=True, **options):
        options.setdefault("ssl", self.tls[0])
        transport = "auto" if self.transport == "epoll" and options["ssl"] else self.transport
        server = self.gamenet.Server(**{"transport": transport, **options})
        self.check.watch(server)
        if start:
            await self.start(server)
        return server

    async def start(self, server):
        await server.start("127.0.0.1", 0)
        self.stack.push_async_callback(server.stop)

    async def connect(self, server, **options):
        """A gamenet client of `server`."""
        options.setdefault("transport", self.transport)
        options.setdefault("ssl", self.tls[1])
        connecting = self.gamenet.connect("127.0.0.1", server.port, **options)
        return await self.stack.enter_async_context(connecting)

    def route(self, handler, **options):
        """A route of this twin, for `server.dispatch.routes.default`."""
        return self.gamenet._core.Route(handler, **options)

    def frame(self, layout, limit):
        """A packet of that layout: as short as it can be, at most `limit` bytes."""
        codec = self.gamenet._core.codec_for(layout, min(limit, layout.max_packet_size))
        return codec.frame(0, bytes(max(0, getattr(layout, "min_packet_size", 0) - getattr(layout, "overhead", 0))))

    async def open(self, server):
        """A plain stream of bytes to `server`: (reader, writer)."""
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=self.tls[1])
        self.stack.callback(writer.close)
        return reader, writer

    async def open_mute(self, server):
        """A blocking socket to `server`, with room for little: nothing of it is read unless the test does it."""
        sock = await asyncio.to_thread(self._dial, server.port)
        self.stack.callback(sock.close)
        return sock

    def _dial(self, port):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(10)
        sock.connect(("127.0.0.1", port))
        return self.tls[1].wrap_socket(sock, server_hostname="127.0.0.1") if self.tls[1] else sock


HAS_FAST = importlib.util.find_spec("aiofastnet") and sys.platform != "win32"  # there asyncio's loop reads by itself
HAS_EPOLL = sys.platform == "linux" and not PURE_ONLY


def pytest_collection_modifyitems(items):
    items[:] = [item for item in items if not is_left_out(params_of(item))]


def params_of(item):
    return item.callspec.params if hasattr(item, "callspec") else {}


def is_left_out(params):
    """The epoll transport drives the compiled twin only, and no TLS."""
    if TESTED_TWIN and params.get("gamenet", params.get("core")) not in (None, TESTED_TWIN):
        return True
    return params.get("net") == "epoll" and (params.get("gamenet") == "pure" or params.get("secure") == "tls")


@pytest_asyncio.fixture(params=["asyncio", *(["fast"] if HAS_FAST else []), *(["epoll"] if HAS_EPOLL else [])])
async def net(request, gamenet, caplog):
    # timers of aiofastnet's TLS outlive a connection that was aborted while it said hello or good-bye
    ignore = ["SSLTransportBase._check_handshake_timeout", "SSLTransportBase._check_shutdown_timeout"]
    async with gamenet.testing.leak_check(ignore=ignore) as check, AsyncExitStack() as stack:
        yield Net(gamenet, request.param, stack, check)
        caplog.get_records("call").clear()  # their tracebacks hold frames, and with them what those looked at


@pytest.fixture(scope="session")
def tls():
    """Contexts of a server and a client who trust each other."""
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(server)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client)
    return server, client


@pytest.fixture(params=["plain", "tls"])
def secure(request, net):
    """Runs a test in plain and over TLS: servers and connections of `net` use it. True if it is TLS."""
    if request.param == "tls":
        net.tls = request.getfixturevalue("tls")
    return request.param == "tls"


async def until(condition, seconds=10.0):
    """Wait until `condition()` is true; fail after `seconds`."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


@pytest.fixture(name="until")
def until_fixture():
    return until
