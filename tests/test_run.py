"""gamenet.run as a program: signals, loops, and an end without a traceback."""

import asyncio
import os
import signal

import pytest
from program import ON_WINE, running

from gamenet.run import loop_factory

pytestmark = pytest.mark.no_sanitizer

PROGRAM = """
import sys, gamenet
server = gamenet.Server(**{options})

@server.on(1)
def handler(session, packet):
    for n in range({answers}):
        session.send(2, bytes(4000), n)

gamenet.run(server, port=0, loop="{loop}", on_ready=lambda: print(server.port, flush=True))
print("after", server.stats()["closed"], flush=True)
"""

STOPS = ["SIGINT", "SIGTERM"] if os.name == "posix" else ["CTRL_BREAK_EVENT"]


def program(loop="asyncio", answers=1, **options):
    """The program above as a process: (process, port)."""
    return running(PROGRAM.format(loop=loop, answers=answers, options=options))


def outcome(process):
    """Exit code, what it said after its port, and what it complained of."""
    out, err = process.communicate(timeout=30)
    return process.returncode, out.strip(), err.strip()


def installed(loop):
    try:
        loop_factory(loop)
    except ModuleNotFoundError:
        return False
    return True


LOOPS = [
    pytest.param(name, marks=pytest.mark.skipif(not installed(name), reason=f"{name} is not installed"))
    for name in ("asyncio", "uvloop", "winloop")
]


needs_signals = pytest.mark.skipif(ON_WINE, reason="wine has no console that could send Ctrl+Break")


@needs_signals
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("stop", STOPS)
def test_a_signal_ends_it_cleanly(loop, stop):
    with program(loop) as (process, _):
        process.send_signal(getattr(signal, stop))
        assert outcome(process) == (0, "after {}", "")


@needs_signals
@pytest.mark.parametrize("loop", LOOPS)
def test_a_signal_drains_the_sessions(loop):
    async def play(process, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x01\0\x08\0\0\0\0\0")
        await reader.readexactly(1)
        process.send_signal(getattr(signal, STOPS[-1]))
        rest = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        return 1 + len(rest)

    with program(loop, answers=200) as (process, port):
        assert asyncio.run(play(process, port)) == 200 * 4008
        assert outcome(process) == (0, "after {'server_stopped': 1}", "")


@needs_signals
def test_a_second_signal_does_not_wait():
    async def play(process, port):
        _reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.transport.pause_reading()
        writer.write(b"\x01\0\x08\0\0\0\0\0")
        await asyncio.sleep(0.3)
        for _ in range(2):
            process.send_signal(getattr(signal, STOPS[-1]))
            await asyncio.sleep(0.2)
        await asyncio.to_thread(process.wait, 20)
        writer.close()

    with program(answers=3000, close_timeout=600.0, max_write_buffer=100_000_000) as (process, port):
        asyncio.run(play(process, port))
        assert outcome(process) == (0, "after {'server_stopped': 1}", "")


def test_a_signal_that_comes_at_the_very_end_is_quiet(gamenet):
    """Also one that comes while the loop is being closed: `uv run` hands on what the terminal has sent already."""
    server, tasks, ends = gamenet.Server(), [], []

    async def asks_again():
        try:
            await asyncio.sleep(3600)
        finally:
            ends.append(server.is_listening)
            signal.raise_signal(signal.SIGINT)

    def ready():
        tasks.append(asyncio.ensure_future(asks_again()))
        tasks[0].get_loop().call_later(0.01, signal.raise_signal, signal.SIGINT)

    try:
        gamenet.run(server, port=0, loop="asyncio", on_ready=ready)
    except KeyboardInterrupt:
        pytest.fail("the second signal was not taken")
    assert ends == [False]
    assert tasks[0].cancelled()


def test_a_signal_that_comes_before_it_listens_stops_it_at_once(gamenet):
    async def main():
        server, told = gamenet.Server(), []
        stop = gamenet.run.__globals__["StopRequest"]()
        with stop.on_signals():
            signal.raise_signal(signal.SIGINT)
            await gamenet.run.__globals__["_serve"](server, "127.0.0.1", 0, lambda: told.append(server.port), stop)
        assert told
        assert not server.is_listening

    asyncio.run(main())


def test_it_returns_when_somebody_else_has_stopped_the_server(gamenet):
    server, tasks = gamenet.Server(), []

    def ready():
        tasks.append(asyncio.ensure_future(server.stop()))

    for _ in range(2):
        gamenet.run(server, port=0, loop="asyncio", on_ready=ready)
        assert not server.is_listening
        assert tasks[-1].done()


async def test_waiting_for_the_stop(gamenet):
    server = gamenet.Server()
    await server.wait_stopped()
    for _ in range(2):
        async with server:
            waits = [asyncio.ensure_future(server.wait_stopped()) for _ in range(3)]
            await asyncio.sleep(0.01)
            assert not any(task.done() for task in waits)
            waits[0].cancel()
        await asyncio.gather(*waits[1:])
        await server.wait_stopped()


STOPS_ITSELF = """
import gamenet
server = gamenet.Server()

@server.on(1)
async def handler(session, packet):
    session.reply(packet)
    await server.stop()

gamenet.run(server, port=0, loop="{loop}", on_ready=lambda: print(server.port, flush=True))
print("after", server.stats()["closed"], flush=True)
"""


@pytest.mark.parametrize("loop", LOOPS)
def test_a_program_whose_handler_stops_the_server_ends(loop):
    async def play(port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x01\0\x08\0\0\0\0\0")
        assert await asyncio.wait_for(reader.read(), 20) == b"\x01\0\x08\0\0\0\0\0"
        writer.close()

    with running(STOPS_ITSELF.format(loop=loop)) as (process, port):
        asyncio.run(play(port))
        assert outcome(process) == (0, "after {'server_stopped': 1}", "")


LINGERS = """
import atexit, time
atexit.register(lambda: (print("bye", flush=True), time.sleep(1.0)))
"""


@needs_signals
@pytest.mark.parametrize("stop", STOPS)
def test_a_signal_while_the_program_ends_changes_nothing(stop):
    with running(LINGERS + PROGRAM.format(loop="asyncio", answers=0, options={})) as (process, _):
        process.send_signal(getattr(signal, stop))
        assert [process.stdout.readline().strip() for _ in range(2)] == ["after {}", "bye"]
        for _ in range(3):
            process.send_signal(getattr(signal, stop))
        assert outcome(process) == (0, "", "")


def test_an_address_in_use_is_raised(gamenet):
    async def occupy():
        server = gamenet.Server()
        async with server:
            with pytest.raises(OSError):
                await gamenet.serve(gamenet.Server(), "127.0.0.1", server.port)

    asyncio.run(occupy())


def test_loops_that_cannot_be():
    with pytest.raises(ValueError, match="loop is 'trio'"):
        loop_factory("trio")
    missing = "winloop" if os.name == "posix" else "uvloop"
    if not installed(missing):
        with pytest.raises(ModuleNotFoundError):
            loop_factory(missing)
    loop = loop_factory("auto")()
    assert isinstance(loop, asyncio.AbstractEventLoop)
    loop.close()


def test_signal_handlers_are_put_back(gamenet):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    def stop_soon():
        asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGINT)

    gamenet.run(gamenet.Server(), port=0, loop="asyncio", on_ready=stop_soon)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
