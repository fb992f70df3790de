"""Real clients against the servers of `examples/protocols/`, with a relay between them that chooses the segments.

    async def test_ping(serve, in_thread):
        served = await serve("minecraft_status")      # examples/protocols/minecraft_status.py, on the twin under test
        status = await in_thread(blocking_client, served.host, served.port)
        assert served.server.stats()["handler_errors"] == 0

`serve(name)` loads the example from its file with the twin under test as its `gamenet`, starts its module's `server` with
`net` (which stops it, and asserts that nothing is left), opens a relay to it, and returns a `Served`: `module`, `server`,
`host` and `port` (the relay's). Every test that uses it runs in three modes:

- `as it comes`: what one side sends is passed on as it was read;
- `one byte at a time`: both ways, every byte in a segment of its own;
- `glued`: what the client sends is held back until it is silent for a moment, then passed on in one segment. A client
  that waits for answers gets them, a little later.

The parts alone: `load(name)` returns the module, `relay(port)` the port of a relay to another port of 127.0.0.1; `relay.mode`
is the mode's name. `in_thread(function, *values, **named)` awaits a blocking client, for up to `TIME_LIMIT` seconds: give
the client a shorter time limit of its own, a thread cannot be ended. Clients of asyncio run in the test's loop. What real
clients never send: `server, answer = await send_bytes(name, data)` sends it without a relay, and reads to the end.

A test file starts with `client = pytest.importorskip("client", reason="...")`. Examples take everything from
`import gamenet` itself: its submodules are those of the default twin.
"""

import asyncio
import importlib.util
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import pytest_asyncio

EXAMPLES = Path(__file__).parents[2] / "examples" / "protocols"
MODES = ("as it comes", "one byte at a time", "glued")
HOST = "127.0.0.1"
TIME_LIMIT = 60.0  # seconds; the machines that run this are shared

_CHUNK = 1 << 16
_QUIET = 0.02  # seconds of silence after which glued bytes are passed on
_TURNS = 4  # turns of the loop in which a server in the same loop certainly reads the byte it was sent


class Relay:
    """Listens on `port` and passes bytes on to `target_port`, both of 127.0.0.1; a half-close is passed on too."""

    def __init__(self, mode, target_port):
        self.mode = mode
        self.target_port = target_port
        self.listener = socket.create_server((HOST, 0), backlog=64)
        self.listener.setblocking(False)
        self.port = self.listener.getsockname()[1]
        self.loop = asyncio.get_running_loop()
        self.connections = set()
        self.accepting = self.loop.create_task(self.accept())

    async def accept(self):
        while True:
            client, _ = await self.loop.sock_accept(self.listener)
            task = self.loop.create_task(self.connect(client))
            self.connections.add(task)
            task.add_done_callback(self.connections.discard)

    async def connect(self, client):
        server = socket.socket()
        with client, server:
            for end in (client, server):
                end.setblocking(False)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            to_server = self.pass_glued if self.mode == "glued" else self.pass_on
            await self.loop.sock_connect(server, (HOST, self.target_port))
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self.pump(to_server, client, server))
                pumps.create_task(self.pump(self.pass_on, server, client))

    async def pump(self, pass_bytes, source, target):
        """Until the source ends or one of them is gone; what is on its way in the other direction still arrives."""
        with suppress(OSError):
            await pass_bytes(source, target)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    async def pass_on(self, source, target):
        while chunk := await self.loop.sock_recv(source, _CHUNK):
            if self.mode != "one byte at a time":
                await self.loop.sock_sendall(target, chunk)
                continue
            for byte in chunk:
                await self.loop.sock_sendall(target, bytes((byte,)))
                for _ in range(_TURNS):
                    await asyncio.sleep(0)

    async def pass_glued(self, source, target):
        held, chunk = bytearray(), b"more"
        while chunk:
            reading = self.loop.create_task(self.loop.sock_recv(source, _CHUNK))
            try:
                if held and not (await asyncio.wait({reading}, timeout=_QUIET))[0]:
                    await self.loop.sock_sendall(target, bytes(held))
                    held.clear()
                chunk = await reading
            finally:
                reading.cancel()
            held += chunk
        await self.loop.sock_sendall(target, bytes(held))

    async def close(self):
        tasks = [self.accepting, *self.connections]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.listener.close()


@pytest_asyncio.fixture(params=MODES)
async def relay(request, net):
    """`await relay(port)`: the port of a relay to it. Depends on `net`, so that relays end before servers do."""
    relays = []

    async def open_relay(target_port):
        relays.append(Relay(request.param, target_port))
        return relays[-1].port

    open_relay.mode = request.param
    yield open_relay
    for one in relays:
        await one.close()


@pytest.fixture
def load(gamenet):
    """`load(name)`: the module of `examples/protocols/<name>.py`, loaded anew with the twin under test."""

    def load_example(name):
        spec = importlib.util.spec_from_file_location(f"protocol_{name}_{gamenet.backend}", EXAMPLES / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        default = sys.modules.get("gamenet")
        sys.modules["gamenet"] = gamenet
        sys.modules[spec.name] = module  # dataclasses look their module up
        try:
            spec.loader.exec_module(module)
        finally:
            del sys.modules[spec.name]
            del sys.modules["gamenet"]
            if default is not None:
                sys.modules["gamenet"] = default
        return module

    return load_example


@dataclass
class Served:
    """An example that runs behind a relay."""

    module: ModuleType
    server: Any
    port: int
    host: str = HOST


@pytest.fixture
def start(net, load):
    """`await start(name)`: the example's module and server, on the transport under test, without a relay."""

    async def start_example(name, server="server"):
        module = load(name)
        found = getattr(module, server)
        found.transport = net.transport
        net.check.watch(found)
        await net.start(found)
        return module, found

    return start_example


@pytest.fixture
def serve(start, relay):
    """`await serve(name)`: the example as `Served`; `server` names another server of its module."""

    async def serve_example(name, server="server"):
        module, found = await start(name, server)
        return Served(module, found, await relay(found.port))

    return serve_example


@pytest.fixture
def send_bytes(net, start):
    """`await send_bytes(name, data)`: the example's server, and what it answered until it hung up, or was done."""

    async def send(name, data, *, then_end=False):
        _, server = await start(name)
        reader, writer = await net.open(server)
        writer.write(data)
        if then_end:
            writer.write_eof()
        async with asyncio.timeout(TIME_LIMIT):
            return server, await reader.read()

    return send


@pytest.fixture
def in_thread():
    """`await in_thread(function, *values, **named)`: a blocking client, while servers run in the test's loop."""

    async def run(function, *values, **named):
        async with asyncio.timeout(TIME_LIMIT):
            return await asyncio.to_thread(function, *values, **named)

    return run
