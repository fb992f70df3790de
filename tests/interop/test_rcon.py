"""`examples/protocols/rcon.py` with mcrcon and aio-mc-rcon."""

import asyncio
import subprocess
import sys

import pytest

TIMEOUT = 20

MCRCON = f"""
import sys, mcrcon

host, port, password, *commands = sys.argv[1:]
with mcrcon.MCRcon(host, password, int(port), timeout={TIMEOUT}) as client:
    for command in commands:
        print(client.command(command))
"""


@pytest.fixture
def mcrcon(in_thread):
    """`await mcrcon(served, password, *commands)`: the finished process. It needs SIGALRM, so a main thread."""
    pytest.importorskip("mcrcon", reason="mcrcon is not installed")

    async def run(served, password, *commands):
        arguments = [sys.executable, "-X", "utf8", "-c", MCRCON, served.host, str(served.port), password, *commands]
        return await in_thread(
            subprocess.run, arguments, capture_output=True, text=True, encoding="utf-8", timeout=2 * TIMEOUT
        )

    return run


async def test_mcrcon_runs_commands(serve, mcrcon):
    served = await serve("rcon")
    done = await mcrcon(served, "secret", "/list", "say hällo", "say " + 300 * "x", "dance")
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "There are 1 consoles open", "[Rcon] hällo", "[Rcon] " + 300 * "x", "Commands: list, say <message>",
    ]  # fmt: skip
    assert served.server.stats()["packets_dispatched"] == 5


async def test_mcrcon_reads_an_answer_of_several_packets(serve, mcrcon, relay):
    if relay.mode == "one byte at a time":
        pytest.skip("mcrcon takes an answer for complete as soon as its socket has nothing to read")
    served = await serve("rcon")
    text = "".join(map(str, range(2000)))[: served.module.LONGEST_BODY - len("say ")]
    done = await mcrcon(served, "secret", f"say {text}", "list")
    assert done.stdout.splitlines() == [f"[Rcon] {text}", "There are 1 consoles open"]
    assert served.server.stats()["packets_out"] == 4


async def test_mcrcon_with_a_wrong_password(serve, mcrcon):
    served = await serve("rcon")
    done = await mcrcon(served, "guess", "list")
    assert "MCRconException: Login failed" in done.stderr
    assert served.server.stats()["packets_dispatched"] == 1


async def test_aio_mc_rcon_runs_commands(serve):
    aiomcrcon = pytest.importorskip("aiomcrcon", reason="aio-mc-rcon is not installed")
    served = await serve("rcon")
    clients = [aiomcrcon.Client(served.host, served.port, "secret") for _ in range(3)]
    for client in clients:
        await client.connect(timeout=TIMEOUT)
    answers = await asyncio.gather(
        *(client.send_cmd(f"say {number}", timeout=TIMEOUT) for number, client in enumerate(clients))
    )
    assert [text for text, _ in answers] == ["[Rcon] 0", "[Rcon] 1", "[Rcon] 2"]
    text, _ = await clients[0].send_cmd("say " + 1400 * "x", timeout=TIMEOUT)
    assert text == "[Rcon] " + 1400 * "x"
    for client in clients:
        await client.close()


async def test_aio_mc_rcon_with_a_wrong_password(serve):
    aiomcrcon = pytest.importorskip("aiomcrcon", reason="aio-mc-rcon is not installed")
    served = await serve("rcon")
    client = aiomcrcon.Client(served.host, served.port, "guess")
    with pytest.raises(aiomcrcon.IncorrectPasswordError):
        await client.connect(timeout=TIMEOUT)


async def test_commands_need_a_password(send_bytes):
    _, answer = await send_bytes("rcon", b"\x0e\0\0\0" b"\x07\0\0\0" b"\x02\0\0\0" b"list" b"\0\0")
    assert answer == b"\x0a\0\0\0" b"\xff\xff\xff\xff" b"\x02\0\0\0" b"\0\0"


@pytest.mark.parametrize(
    "sent",
    [b"\x09\0\0\0" + bytes(9), b"\x01\x10\0\0" + bytes(8), b"\x0a\0\0\0" + bytes(9) + b"\1"],
    ids=["too small", "too large", "no trailer"],
)
async def test_what_is_no_packet_ends_the_session(send_bytes, sent):
    server, answer = await send_bytes("rcon", sent)
    assert answer == b""
    assert server.stats()["rejected"]["invalid"] == 1
