"""The watchdog: a handler that holds up the loop is named while it does, and once more when it is over."""

import asyncio
import logging
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest
from wire import echo_server, read_packet, wire

TIMEOUT = 0.05  # the shortest that a loaded machine does not reach by itself all the time; no test needs silence


class Lines(logging.Handler):
    """The watchdog's lines, each as it is written, in whatever thread."""

    def __init__(self):
        super().__init__()
        self.records = []
        self.told = threading.Event()

    def emit(self, record):
        if "held up" in record.getMessage() or "holds up" in record.getMessage():
            self.records.append(record)
            if self.wanted in self.format(record):
                self.told.set()

    wanted = "so far"

    def of(self, wanted):
        return [record for record in self.records if wanted in self.format(record)]


@pytest.fixture
def lines():
    handler = Lines()
    logger = logging.getLogger("gamenet")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


def watchdogs():
    return [thread for thread in threading.enumerate() if thread.name == "gamenet watchdog"]


def assert_shows(record, frame):
    """Its stack shows `frame`; without a GIL it has none, for there no thread may look at another one's frames."""
    if getattr(sys, "_is_gil_enabled", lambda: True)():
        assert frame in record.stack_info
    else:
        assert record.stack_info is None


def burn(event):
    """Burn CPU until the event is set."""
    while not event.is_set():
        sum(range(1000))


@pytest.mark.parametrize("how", ["sleeps", "burns"])
async def test_a_handler_that_blocks_is_named_while_it_does(net, lines, until, how):
    """The handler goes on only when the line was written: it was written while the loop was blocked."""
    server = await net.server(watchdog_timeout=TIMEOUT)
    lines.wanted = "with packet id 7: "

    @server.on(7)
    def blocking_handler(session, packet):
        if how == "sleeps":
            assert lines.told.wait(30)
        else:
            burn(lines.told)
        session.reply(packet)

    reader, writer = await net.open(server)
    writer.write(wire(7, b"x"))
    assert (await read_packet(reader))[0] == 7
    (session,) = server.sessions
    await until(lambda: lines.of("held up the event loop with packet id 7 for"))
    for record in (lines.of(lines.wanted)[0], lines.of("held up the event loop with packet id 7 for")[0]):
        assert (record.session_id, record.peer, record.packet_id) == (session.id, session.peername, 7)
        assert f"session {session.id} " in record.getMessage()
    first = lines.of(lines.wanted)[0]
    assert_shows(first, "in blocking_handler")
    assert record.args[-1] >= first.args[-1] >= TIMEOUT
    assert server.stats()["blocked"] >= 1


async def test_a_coroutine_that_blocks_after_it_waited_is_named(net, lines, until):
    server = await net.server(watchdog_timeout=TIMEOUT)
    lines.wanted = "with packet id 300: "

    @server.on(300)
    async def blocking_handler(session, packet):
        await asyncio.sleep(0.001)
        assert asyncio.current_task().get_name() == f"gamenet session {session.id} packet 300"
        assert lines.told.wait(30)
        session.reply(packet)

    reader, writer = await net.open(server)
    writer.write(wire(300))
    await read_packet(reader)
    (session,) = server.sessions
    record = lines.of(lines.wanted)[0]
    assert (record.session_id, record.packet_id) == (session.id, 300)
    assert_shows(record, "in blocking_handler")


@pytest.mark.parametrize("has_gil", [True, False])
async def test_the_stack_is_left_out_where_it_may_not_be_looked_at(net, lines, monkeypatch, has_gil):
    server = await net.server(watchdog_timeout=TIMEOUT)
    monkeypatch.setattr(net.gamenet.watchdog, "_has_gil", lambda: has_gil)
    if has_gil and not getattr(sys, "_is_gil_enabled", lambda: True)():
        pytest.skip("there is no GIL")

    @server.on(7)
    def blocking_handler(session, packet):
        assert lines.told.wait(30)
        session.reply(packet)

    reader, writer = await net.open(server)
    writer.write(wire(7))
    await read_packet(reader)
    record = lines.of(lines.wanted)[0]
    assert record.packet_id == 7
    assert (record.stack_info is not None) == has_gil


async def test_what_is_no_packet_is_shown_by_its_stack(net, lines, until):
    await net.server(watchdog_timeout=TIMEOUT)
    lines.wanted = "the event loop is held up: "

    def blocking_callback():
        assert lines.told.wait(30)

    asyncio.get_running_loop().call_soon(blocking_callback)
    await until(lambda: lines.told.is_set())
    record = lines.of(lines.wanted)[0]
    assert_shows(record, "in blocking_callback")
    assert not hasattr(record, "packet_id")


async def test_a_handler_inside_another_is_named(net, lines):
    """A handler brings another session its packet, and that one's handler, the default, blocks."""
    server = await net.server(watchdog_timeout=TIMEOUT)
    lines.wanted = "with packet id 3: "
    others = []

    @server.on(1)
    def first(session, packet):
        others.append(session)
        session.reply(packet)

    @server.on(2)
    def outer(session, packet):
        others[0].data_received(wire(3))
        session.reply(packet)

    def default(session, packet):
        assert lines.told.wait(30)

    server.dispatch.set_default(default)
    for packet_id in (1, 2):
        reader, writer = await net.open(server)
        writer.write(wire(packet_id))
        await read_packet(reader)
    assert lines.of(lines.wanted)[0].session_id == others[0].id


async def test_the_thread_lives_as_long_as_the_server_runs(net):
    before = len(watchdogs())
    server = await net.server(start=False)
    assert server.limits.watchdog_timeout == 1.0
    assert len(watchdogs()) == before
    for _ in range(3):
        await net.start(server)
        assert len(watchdogs()) == before + 1
        assert watchdogs()[-1].daemon
        await server.stop()
        assert len(watchdogs()) == before
    quiet = await net.server(watchdog_timeout=None)
    assert len(watchdogs()) == before
    assert quiet.stats()["blocked"] == 0


async def test_it_stops_while_the_loop_is_held_up_and_says_when_that_was_over(net, lines, until):
    server = await echo_server(net, watchdog_timeout=TIMEOUT)
    stopping = []

    @server.on(2)
    def handler(session, packet):
        assert lines.told.wait(30)
        stopping.append(asyncio.ensure_future(server.stop()))

    _, writer = await net.open(server)
    writer.write(wire(2))
    await until(lambda: stopping)
    await asyncio.gather(*stopping)
    assert lines.of("held up the event loop with packet id 2 for")


@pytest.mark.parametrize("bad", [0, -1.0])
def test_timeouts_that_cannot_be(gamenet, bad):
    with pytest.raises(ValueError, match=f"watchdog_timeout {bad} is not above 0 seconds"):
        gamenet.Server(watchdog_timeout=bad)
    assert gamenet.Server(watchdog_timeout=0.001).limits.watchdog_timeout == 0.001


class FakeLoop:
    """A loop that takes no beat until it is told to."""

    def __init__(self):
        self.waiting = []
        self.most = 0
        self.running = True
        self.closed = False

    def call_soon_threadsafe(self, callback):
        if self.closed:
            raise RuntimeError("Event loop is closed")
        self.waiting.append(callback)
        self.most = max(self.most, len(self.waiting))

    def take(self):
        self.waiting.pop()()

    def is_running(self):
        return self.running

    def is_closed(self):
        return self.closed


@contextmanager
def watching(gamenet, loop, timeout=0.01):
    """A watchdog of `loop`, which nothing else knows."""
    watchdog = gamenet.server.Watchdog(timeout, gamenet._core.Ledger(), lambda: [], logging.getLogger("gamenet"))
    watchdog.start(loop)
    yield watchdog
    watchdog.stop()
    assert not watchdogs()


def wait_for(condition):
    ends = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.001)


def test_one_beat_waits_however_long_the_loop_is_blocked(gamenet, lines):
    loop = FakeLoop()
    with watching(gamenet, loop) as watchdog:
        wait_for(lambda: lines.of("so far"))
        time.sleep(0.1)
        assert (loop.most, watchdog.blocked, len(lines.records)) == (1, 1, 1)
        loop.take()
        wait_for(lambda: loop.waiting)
        assert [record.getMessage()[:28] for record in lines.records[:2]] == [
            "the event loop is held up: 0", "the event loop was held up f"
        ]
    assert loop.most == 1


def test_a_loop_that_was_stopped_is_not_blocked(gamenet, lines):
    loop = FakeLoop()
    loop.running = False
    with watching(gamenet, loop) as watchdog:
        time.sleep(0.1)
        assert (watchdog.blocked, lines.records) == (0, [])


@pytest.mark.parametrize("is_waiting", [True, False])
def test_the_thread_ends_with_its_loop(gamenet, lines, is_waiting):
    loop = FakeLoop()
    with watching(gamenet, loop, timeout=0.5 if is_waiting else 0.01):
        wait_for(lambda: loop.waiting)
        if not is_waiting:
            loop.take()
        loop.closed = True
        wait_for(lambda: not watchdogs())


@pytest.mark.no_sanitizer
def test_a_process_ends_quietly_with_a_watchdog_running():
    code = (
        "import asyncio, gamenet\n"
        "async def main():\n"
        "    server = gamenet.Server(watchdog_timeout=0.001)\n"
        "    await server.start()\n"
        "    await asyncio.sleep(0.05)\n"
        "loop = asyncio.new_event_loop()\n"
        "loop.run_until_complete(main())\n"  # neither the server nor the loop is ended
        "print('done')\n"
    )
    done = subprocess.run([sys.executable, "-X", "dev", "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "done")
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
