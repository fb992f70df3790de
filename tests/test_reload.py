"""`Server.reload`: a module of handlers is edited and run again while its packets arrive."""

import asyncio
import gc
import importlib
import re
import struct
import sys
import sysconfig
import textwrap
import threading
import types
import weakref
from pathlib import Path

import pytest
from wire import read_packet, wire

MODULES = ("handlers_a", "handlers_b", "handlers_new", "own_server", "pack")


@pytest.fixture
def modules(tmp_path, monkeypatch, secure):
    """Modules as files: `modules.write(name, source)`; they find what the test gives them in the module `game`.

    What is reloaded under connections is reloaded under those of TLS, too.
    """
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two edits within a second
    monkeypatch.syspath_prepend(tmp_path)
    game = types.ModuleType("game")
    monkeypatch.setitem(sys.modules, "game", game)

    def write(name, source):
        path = tmp_path.joinpath(*name.split(".")).with_suffix(".py")
        path.parent.mkdir(exist_ok=True)
        path.write_text("from game import server, handled\n" + textwrap.dedent(source), encoding="utf-8")

    game.write = write
    game.handled = []
    yield game
    for name in [name for name in sys.modules if name.partition(".")[0] in MODULES]:
        del sys.modules[name]


def load(name):
    importlib.invalidate_caches()
    return importlib.import_module(name)


ECHO = """
@server.on(1)
def echo(session, packet):
    handled.append((%r, packet.sequence))
    session.reply(packet)
"""


async def test_a_live_connection_sees_each_version_in_turn(net, modules):
    """Packets arrive all the time: each is handled once, in order, by the version of its moment."""
    modules.server = server = await net.server(start=False)
    modules.write("handlers_a", ECHO % 0)
    module = load("handlers_a")
    await net.start(server)
    reader, writer = await net.open(server)
    versions, sent = 30, 0

    async def reload_again_and_again():
        for version in range(1, versions):
            before = len(modules.handled)
            while len(modules.handled) < before + 20:
                await asyncio.sleep(0)
            modules.write("handlers_a", ECHO % version)
            server.reload(module if version % 2 else "handlers_a")

    reloading = asyncio.ensure_future(reload_again_and_again())
    while not reloading.done():
        for _ in range(7):
            writer.write(wire(1, b"x" * (sent % 50), sent))
            sent += 1
        for n in range(sent - 7, sent):
            assert await read_packet(reader) == (1, n, b"x" * (n % 50))
    await reloading
    assert [sequence for _, sequence in modules.handled] == list(range(sent))
    seen = [version for version, _ in modules.handled]
    assert seen == sorted(seen)
    assert set(seen) >= set(range(versions - 1))
    writer.write(wire(1, b"last", 7))
    assert await read_packet(reader) == (1, 7, b"last")
    assert modules.handled[-1] == (versions - 1, 7)


async def test_a_handler_may_reload_its_own_module(net, modules):
    modules.server = server = await net.server()
    modules.gc = gc
    source = """
        from game import gc

        @server.on(1)
        def handler(session, packet, version=%d):
            handled.append((version, packet.sequence))
            if packet.sequence == 1:
                server.reload(__name__)
                gc.collect()
            session.reply(packet)
    """
    modules.write("handlers_a", source % 1)
    load("handlers_a")
    old = weakref.ref(server.dispatch.handler_of(1))
    modules.write("handlers_a", source % 2)
    reader, writer = await net.open(server)
    writer.write(b"".join(wire(1, b"", n) for n in range(4)))
    for n in range(4):
        assert (await read_packet(reader))[1] == n
    assert modules.handled == [(1, 0), (1, 1), (2, 2), (2, 3)]
    gc.collect()
    # what a module defines lives for ever in a free-threaded 3.13 that has had a second thread
    is_immortal = sys.version_info < (3, 14) and sysconfig.get_config_var("Py_GIL_DISABLED")
    assert old() is None or is_immortal


BROKEN = {
    "syntax": ("def (", SyntaxError),
    "import": ("import no_such_module_of_mine", ModuleNotFoundError),
    "late": ("helper = 2\nnew = 3\n@server.on(1)\ndef other(session, packet): pass\n1 / 0", ZeroDivisionError),
    "wrong id": ("@server.on(-1)\ndef other(session, packet): pass", ValueError),
    "exit": ("raise SystemExit(3)", SystemExit),
    "takes others' away": ("server.dispatch.unregister(2)\nserver.dispatch.set_default(None)\n1 / 0", ZeroDivisionError),
    "asks for a login": ("server.require_login(2)\n1 / 0", ZeroDivisionError),
    "unknown id": ("server.dispatch.unregister(9)", KeyError),
    "nothing": ("helper = 2", RuntimeError),
    "a server of its own": ("import gamenet\nserver = gamenet.Server()\n@server.on(1)\ndef other(*_): pass", RuntimeError),
    "a reload in a reload": ("server.reload('handlers_b')", RuntimeError),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_module_that_fails_changes_nothing(net, modules, name):
    modules.server = server = await net.server()
    hooks = "\n@server.on_opened\ndef opened(session): handled.append('opened')\nhelper = 1\n"
    modules.write("handlers_a", ECHO % 1 + hooks + "server.dispatch.set_default(lambda session, packet: session.reply(packet))")
    modules.write("handlers_b", "@server.on(2)\ndef two(session, packet): session.reply(packet)")
    module, _ = load("handlers_a"), load("handlers_b")
    names, table = dict(vars(module)), [server.dispatch.routes.find(number) for number in (1, 2, 3)]
    source, error = BROKEN[name]
    modules.write("handlers_a", source)
    with pytest.raises(error) as raised:
        server.reload(module)
    if error is RuntimeError and "reload" not in name:
        assert "'handlers_a' registered nothing with this server" in str(raised.value)
    assert vars(module) == names
    assert sys.modules["handlers_a"] is module
    assert [server.dispatch.routes.find(number) for number in (1, 2, 3)] == table
    reader, writer = await net.open(server)
    for packet_id in (1, 2, 3):
        writer.write(wire(packet_id, b"x", 5))
        assert await read_packet(reader) == (packet_id, 5, b"x")
    assert modules.handled == ["opened", (1, 5)]
    modules.write("handlers_a", ECHO % 2)
    server.reload(module)  # and the next one works
    assert not hasattr(module, "opened") or "opened" in names
    writer.write(wire(1, b"x", 6))
    assert await read_packet(reader) == (1, 6, b"x")
    assert modules.handled[-1] == (2, 6)


async def test_what_is_not_registered_again_is_gone_and_other_modules_stay(net, modules, until):
    modules.server = server = await net.server()
    modules.write("handlers_a", """
        @server.on(1)
        def one(session, packet): session.reply(packet)
        @server.on(2)
        def two(session, packet): session.reply(packet)
        @server.on_opened
        def opened(session): handled.append("a opened")
        @server.on_closed
        def closed(session, reason): handled.append("a closed")
        server.dispatch.set_default(lambda session, packet: session.reply(packet))
    """)
    modules.write("handlers_b", """
        @server.on(3)
        def three(session, packet): session.reply(packet)
        @server.on_opened
        def opened(session): handled.append("b opened")
    """)
    load("handlers_a")
    load("handlers_b")
    three = server.dispatch.handler_of(3)
    server.dispatch.register(4, print)  # by a test: no module's top level
    modules.write("handlers_a", """
        assert server.dispatch.handler_of(1) is None and server.dispatch.handler_of(3) is not None
        @server.on(2)
        def two(session, packet): session.send(2, b"new", packet.sequence)
        assert (len(server.dispatch), server.dispatch.handler_of(2)) == (3, two)
        @server.on_closed
        def closed(session, reason): handled.append("a closed anew")
    """)
    server.reload("handlers_a")
    assert server.dispatch.routes.ids() == [2, 3, 4]
    assert server.dispatch.handler_of(3) is three
    reader, writer = await net.open(server)
    writer.write(wire(1) + wire(9) + wire(2, b"", 1) + wire(3, b"x", 2))
    assert await read_packet(reader) == (2, 1, b"new")
    assert await read_packet(reader) == (3, 2, b"x")
    assert server.stats()["rejected"]["unknown"] == 2
    writer.close()
    await until(lambda: len(server.sessions) == 0)
    assert modules.handled == ["b opened", "a closed anew"]
    modules.write("handlers_b", "@server.on(2)\ndef two(session, packet): pass")
    server.reload("handlers_b")
    assert server.dispatch.routes.ids() == [2, 4]
    assert server.dispatch.handler_of(2).__module__ == "handlers_b"


async def test_a_waiting_coroutine_ends_as_it_began(net, modules):
    modules.server = server = await net.server()
    modules.gate = asyncio.Event()
    source = """
        from game import gate
        @server.on(1)
        async def handler(session, packet, version=%d):
            handled.append(("begins", version, packet.sequence))
            await gate.wait()
            handled.append(("ends", version, packet.sequence))
            session.reply(packet)
    """
    modules.write("handlers_a", source % 1)
    load("handlers_a")
    reader, writer = await net.open(server)
    writer.write(wire(1, b"", 1) + wire(1, b"", 2))
    while not modules.handled:
        await asyncio.sleep(0.001)
    modules.write("handlers_a", source % 2)
    server.reload("handlers_a")
    modules.gate.set()
    for n in (1, 2):
        assert (await read_packet(reader))[1] == n
    assert modules.handled == [("begins", 1, 1), ("ends", 1, 1), ("begins", 2, 2), ("ends", 2, 2)]


async def test_batch_handlers_and_packet_classes_are_reloaded(net, modules):
    modules.server, modules.gamenet = await net.server(), net.gamenet
    server = modules.server
    source = """
        from game import gamenet
        class Move(gamenet.Packet, id=5):
            x: gamenet.u16
        class Say(gamenet.Packet, id=6):
            text: str = gamenet.char(4)
        %s
        def moves(session, batch):
            handled.append([packet.x for packet in (%s)])
        @server.on(Say)
        def say(session, packet):
            assert isinstance(packet, Say)
            handled.append(packet.text)
            session.reply(packet)
    """
    modules.write("handlers_a", source % ("@server.on_batch(Move)", "batch"))
    load("handlers_a")
    reader, writer = await net.open(server)
    packets = wire(5, b"\1\0") + wire(5, b"\2\0") + wire(6, b"a\0\0\0")
    writer.write(packets)
    await read_packet(reader)
    modules.write("handlers_a", source % ("@server.on(Move)", "[batch]"))
    server.reload("handlers_a")
    writer.write(packets)
    await read_packet(reader)
    modules.write("handlers_a", source % ("@server.on_batch(Move)", "batch"))
    server.reload("handlers_a")
    writer.write(packets)
    await read_packet(reader)
    assert modules.handled == [[1, 2], "a", [1], [2], "a", [1, 2], "a"]


async def test_a_module_imported_by_one_that_fails_is_imported_again(net, modules):
    """Its registrations were dropped, so it must run once more when the mistake is mended."""
    modules.server = server = await net.server()
    modules.write("pack.__init__", "")
    modules.write("pack.handlers", ECHO % 1)
    load("pack.handlers")
    modules.write("pack.more", "@server.on(2)\ndef two(session, packet): session.reply(packet)")
    modules.write("pack.handlers", ECHO % 2 + "from pack import more\n1 / 0")
    with pytest.raises(ZeroDivisionError):
        server.reload("pack.handlers")
    assert server.dispatch.routes.ids() == [1]
    assert "pack.more" not in sys.modules
    modules.write("pack.handlers", ECHO % 3 + "from pack import more\n")
    server.reload("pack.handlers")
    assert server.dispatch.routes.ids() == [1, 2]
    modules.write("pack.handlers", ECHO % 4)  # what the other module registered is the other's
    server.reload("pack.handlers")
    assert server.dispatch.routes.ids() == [1, 2]


async def test_the_module_that_makes_the_server_can_keep_it(net, modules):
    modules.server, modules.gamenet = None, net.gamenet
    modules.write("own_server", """
        import gamenet
        from game import gamenet
        if server is None:
            import game
            server = game.server = gamenet.Server()
        @server.on(1)
        def handler(session, packet): pass
    """)
    module = load("own_server")
    server, handler = module.server, module.handler
    server.reload(module)
    assert module.server is server
    assert server.dispatch.handler_of(1) is module.handler is not handler


async def test_what_cannot_be_reloaded(net, modules):
    server = await net.server()
    with pytest.raises(ImportError, match="'handlers_a' is not imported"):
        server.reload("handlers_a")
    with pytest.raises(ImportError):
        server.reload(types.ModuleType("never_imported"))
    with pytest.raises(TypeError, match="must be a module or its name, got int"):
        server.reload(3)


async def test_another_thread_is_refused(net, modules):
    modules.server = server = await net.server()
    modules.write("handlers_a", ECHO % 1)
    load("handlers_a")
    raised = []

    def reload():
        try:
            server.reload("handlers_a")
        except net.gamenet.WrongThreadError as error:
            raised.append(str(error))

    thread = threading.Thread(target=reload)
    thread.start()
    thread.join()
    assert raised == ["reload() belongs into the thread of the server's loop: server.call_soon(server.reload, module)"]


def test_a_wrapper_is_put_around_every_handler(gamenet):
    """What the metrics use: it sees handlers registered before and later, and leaves what the user asked for."""

    class Chat(gamenet.Packet, id=7):
        text: str = gamenet.char(8)

    def handler(session, packet):
        pass

    table = gamenet.DispatchTable()
    table.register(Chat, handler)
    table.set_default(handler)
    plain = table.routes.get(7)
    table.wrap_handlers(lambda packet_id, route: (packet_id, route.handler).__contains__)
    table.register_batch(8, handler)
    assert table.handler_of(7) is table.handler_of(8) is handler
    for packet_id, route in ((7, table.routes.get(7)), (8, table.routes.get(8)), (None, table.routes.default)):
        assert route.handler.__self__ == (packet_id, handler)
    others = [name for name in dir(plain) if not name.startswith("_") and name != "handler"]
    assert len(others) >= 3
    assert [getattr(table.routes.get(7), name) for name in others] == [getattr(plain, name) for name in others]
    table.wrap_handlers(None)
    assert table.routes.get(7) is plain
    assert table.routes.get(8).handler is table.routes.default.handler is handler


DOCS = Path(__file__).parents[1] / "docs" / "operations.md"


@pytest.mark.skipif(not DOCS.exists(), reason="no docs beside the tests")
async def test_the_example_of_the_docs(net, tmp_path, monkeypatch):
    sources = {
        code.partition("\n")[0].removeprefix("# "): code
        for code in re.findall(r"(?s)```python\n(# \w+\.py\n.*?)```", DOCS.read_text(encoding="utf-8"))
    }
    assert list(sources) == ["arena.py", "handlers.py", "main.py"]
    for name, source in sources.items():
        (tmp_path / name).write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setitem(sys.modules, "gamenet", net.gamenet)
    try:
        server = load("main").arena.server
        await net.start(server)
        net.check.watch(server)
        reader, writer = await net.open(server)
        for points, total in ((5, 5), (6, 11)):
            writer.write(wire(1, struct.pack("<I", points)))
            assert await read_packet(reader) == (1, 0, struct.pack("<I", total))
        edited = sources["handlers.py"].replace("+ packet.points", "+ 10 * packet.points")
        (tmp_path / "handlers.py").write_text(edited, encoding="utf-8")
        writer.write(wire(9000) + wire(1, struct.pack("<I", 7)))
        assert await read_packet(reader) == (9000, 0, b"")
        assert await read_packet(reader) == (1, 0, struct.pack("<I", 81))
        (tmp_path / "handlers.py").write_text(edited + "\nmistake", encoding="utf-8")
        writer.write(wire(9000) + wire(1, struct.pack("<I", 1)))
        assert await read_packet(reader) == (1, 0, struct.pack("<I", 91))
        assert server.stats()["handler_errors"] == 1
    finally:
        for name in sources:
            sys.modules.pop(name.removesuffix(".py"), None)
