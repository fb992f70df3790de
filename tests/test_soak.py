"""The soak notices what it is there for: a server with every fault at once, and a load that is not what was asked."""

import asyncio
import importlib.util
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

SOAK = Path(__file__).with_name("soak.py")

BROKEN = """
import asyncio, importlib.util, os, random, sys
spec = importlib.util.spec_from_file_location("soak", sys.argv[1])
sys.argv[1:] = "--seconds 300 --sessions 20 --rate 500 --report-every 1".split()
soak = sys.modules["soak"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(soak)
make_server, kept = soak.make_server, []


def make_broken_server(options):
    server, honest = make_server(options)
    echo = server.dispatch.handler_of(soak.ECHO)
    done = 0

    @server.on(soak.ECHO)
    async def broken(session, packet):
        nonlocal done
        done += 1
        if done == 100:
            server._ledger.bytes_in += 1
            asyncio.get_running_loop().call_soon(lambda: 1 / 0)
            kept.append(server._pool.acquire())
            kept.append(server.sessions.room("nobody"))
        if done % 1000 == 1:
            kept.extend([os.open(os.devnull, os.O_RDONLY), b"x" * (1 << 20)])
        if done % 300 == 0:
            session.close()
        elif done % 301 == 0:
            session.reply(packet)
            session.reply(packet)
            raise ValueError
        else:
            echo(session, packet)

    return server, honest


soak.make_server = make_broken_server
sys.exit(soak.main())
"""

FOUND = [
    "is not the", "ZeroDivisionError", "pool blocks is 1 at the end", "rooms is 1 at the end",
    "handler_errors is", "sent away, peer_closed", "answered and ", "heard, ended by", "came as the",
    *(["descriptors: "] if sys.platform == "linux" else []),
]


@pytest.mark.no_sanitizer
@pytest.mark.skipif(sys.platform == "win32", reason="is ended by a signal")
def test_every_fault_is_found_also_if_it_is_ended_early():
    with subprocess.Popen(
        [sys.executable, "-P", "-c", BROKEN, str(SOAK)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            lines = [next(line for line in process.stdout if line.startswith("     9 s"))]
            process.send_signal(signal.SIGINT)
            lines += process.stdout
        finally:
            process.kill()
    output = "".join(lines)
    print(output)
    assert process.returncode == 1
    assert "told to end" in output
    assert "Traceback" not in output
    assert [fault for fault in FOUND if not any("WRONG" in line and fault in line for line in lines)] == []


@pytest.fixture(scope="module")
def soak():
    spec = importlib.util.spec_from_file_location("gamenet_soak", SOAK)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.parametrize(("part", "is_enough"), [(0.88, False), (0.92, True), (1.0, True)])
@pytest.mark.parametrize("name", ["echo", "echoed", "joined", "left"])
async def test_the_rates_that_were_asked_for_must_be_reached(soak, name, part, is_enough):
    load = soak.Load(soak.parse(["--clients-of", "1", "--rate", "1000"]))
    assert load.rates() == {}
    assert load.problems.pop() == "only 0 of 200 clients were there"
    load.warm = asyncio.get_running_loop().time() - 100, Counter()
    reached = {"echo": 100_000, "echoed": 100_000, "joined": 500, "left": 500}
    load.counts.update(reached | {name: int(reached[name] * part)})
    load.rates()
    assert [problem for problem in load.problems if "too slow" in problem] == (
        [] if is_enough else load.problems
    )
    assert bool(load.problems) is not is_enough


@pytest.mark.parametrize(("growth", "is_flat"), [(-1, True), (0, True), (1, False)])
def test_memory_may_grow_by_so_much(soak, growth, is_flat):
    watch = soak.Watch()
    watch.memory = [0] * 5 + [50 << 20] * 10 + [(50 << 20) + soak.MAX_DRIFT + growth] * 5
    assert (watch.drift() <= soak.MAX_DRIFT) is is_flat
    watch.memory = watch.memory[:2]
    assert watch.drift() == 0
