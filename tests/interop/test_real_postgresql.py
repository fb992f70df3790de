"""gamenet's client against a real PostgreSQL: the start-up, both protocols, and whether our example answers the same.

Needs PostgreSQL's programs (Debian: `apt-get install --no-install-recommends postgresql`), and starts them itself.
"""

import asyncio
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

LIMIT = 30.0  # seconds
START_LIMIT = 120  # seconds to make and start a database

ACCOUNT = "postgres"  # of Debian's package: PostgreSQL refuses to run as root
INITDB_OPTIONS = ["--auth=trust", "--username=player", "--no-locale", "--encoding=UTF8", "--no-sync"]
SETTINGS = "-c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off -c ssl=off"


def find_programs():
    """The folder of the newest `initdb`; None if there is none."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[4]))
    on_path = shutil.which("initdb")
    found = [*([Path(on_path)] if on_path else []), *debian]
    return found[-1].parent if found else None


class Database:
    """A database of its own in `folder`, on a free port of 127.0.0.1."""

    def __init__(self, programs, folder):
        self.programs = programs
        self.folder = Path(folder)
        self.port = 0

    def run(self, program, *options):
        """Whether it went well. Output goes to a file, for the server that stays keeps it open."""
        account = {"user": ACCOUNT, "group": ACCOUNT, "extra_groups": []} if os.geteuid() == 0 else {}
        with open(self.folder / "output", "a") as output:
            code = subprocess.call(
                [self.programs / program, f"--pgdata={self.folder / 'data'}", *options],
                cwd=self.folder,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "UTC"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=START_LIMIT,
                **account,
            )
        return code == 0

    def start(self):
        if os.geteuid() == 0:
            shutil.chown(self.folder, ACCOUNT, ACCOUNT)
        assert self.run("initdb", *INITDB_OPTIONS), self.output()
        for _ in range(3):  # another program may take the free port first
            self.port = free_port()
            if self.run("pg_ctl", "--wait", f"--options={SETTINGS} -p {self.port}", "start"):
                return
        pytest.fail(self.output())

    def stop(self):
        assert self.run("pg_ctl", "--wait", "--mode=immediate", "stop"), self.output()

    def output(self):
        return (self.folder / "output").read_text()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def postgres():
    """It runs as long as the tests of this module."""
    programs = find_programs()
    if programs is None or sys.platform == "win32":
        pytest.skip("there is no initdb to start PostgreSQL with; apt-get install --no-install-recommends postgresql")
    with tempfile.TemporaryDirectory(prefix="gamenet-postgresql-") as folder:
        database = Database(programs, folder)
        database.start()
        yield database
        database.stop()


@dataclass
class Relayed:
    """Where `net.connect` finds the database behind a relay."""

    port: int


@pytest.fixture
def protocol(load):
    """The example's module: its layouts describe both sides."""
    return load("postgresql")


LOGIN = struct.pack(">I", 3 << 16) + b"user\0player\0database\0postgres\0\0"


async def log_in(net, protocol, server):
    """A client that was let in, and the messages up to its first ReadyForQuery."""
    client = await net.connect(server, layout=protocol.STARTUP)
    client.send(0, LOGIN)
    client.session.layout = protocol.MESSAGES  # what was sent stays as it is, every answer is a message
    return client, await read_answer(client)


async def read_answer(client):
    """[(kind, body)] up to ReadyForQuery, without its transaction status."""
    answer = []
    async with asyncio.timeout(LIMIT):
        async for packet in client:
            answer.append((chr(packet.packet_id), packet.body))
            if packet.packet_id == ord("Z"):
                return answer
    pytest.fail(f"the connection ended: {client.close_reason}, after {answer}")


async def ask(client, *messages):
    """Send messages in one segment, and read the answer up to ReadyForQuery."""
    for kind, body in messages:
        assert client.send(ord(kind), body)
    return await read_answer(client)


async def leave(client):
    client.send(ord("X"))
    async with asyncio.timeout(LIMIT):
        assert await client.wait_closed() == "peer_closed"


PARSE = ("P", b"\0select 1\0\0\0")
BIND_TEXT, BIND_BINARY = ("B", bytes(8)), ("B", bytes(6) + b"\0\1\0\1")
DESCRIBE_STATEMENT, DESCRIBE_PORTAL = ("D", b"S\0"), ("D", b"P\0")
EXECUTE, SYNC = ("E", bytes(5)), ("S", b"")
EXTENDED = (PARSE, DESCRIBE_STATEMENT, BIND_BINARY, DESCRIBE_PORTAL, EXECUTE, SYNC)


async def test_select_1(net, protocol, postgres, relay):
    client, greeting = await log_in(net, protocol, Relayed(await relay(postgres.port)))
    assert greeting[0] == ("R", struct.pack(">I", 0))
    assert greeting[-1] == ("Z", b"I")
    settings = [body.decode().split("\0")[:2] for kind, body in greeting if kind == "S"]
    assert dict(settings)["server_encoding"] == "UTF8"

    description, row, complete, ready = await ask(client, ("Q", b"select 1\0"))
    assert description == ("T", b"\0\1?column?\0" + struct.pack(">IHIhiH", 0, 0, 23, 4, -1, 0))
    assert row == ("D", struct.pack(">HI", 1, 1) + b"1")
    assert (complete, ready) == (("C", b"SELECT 1\0"), ("Z", b"I"))

    answer = await ask(client, *EXTENDED)
    assert "".join(kind for kind, _ in answer) == "1tT2TDCZ"
    assert ("D", struct.pack(">HII", 1, 4, 1)) in answer
    await leave(client)


async def test_a_result_in_many_chunks(net, protocol, postgres):
    client, _ = await log_in(net, protocol, postgres)
    answer = await ask(client, ("Q", b"select n, repeat('x', n) from generate_series(1, 2000) as n\0"))
    rows = [body for kind, body in answer if kind == "D"]
    expected = [(str(n).encode(), b"x" * n) for n in range(1, 2001)]
    assert rows == [
        struct.pack(">HI", 2, len(number)) + number + struct.pack(">I", len(text)) + text for number, text in expected
    ]
    await leave(client)


async def test_a_question_for_tls_first(net, gamenet, protocol, postgres):
    """Its answer is one byte without a frame: a layout of its own."""
    one_byte = gamenet.HeaderLayout((gamenet.HeaderField("packet_id", 1),), frame_size=1)
    client = await net.connect(postgres, layout=protocol.STARTUP)
    client.send(0, struct.pack(">I", protocol.SSL_REQUEST))
    client.session.layout = one_byte
    async with asyncio.timeout(LIMIT):
        assert (await anext(client)).packet_id == ord("N")
    client.session.layout = protocol.STARTUP
    client.send(0, LOGIN)
    client.session.layout = protocol.MESSAGES
    assert (await read_answer(client))[-1] == ("Z", b"I")
    await leave(client)


CONVERSATION = {
    "the simple protocol": [[("Q", b"select 1\0")], [("Q", b" SELECT 1; \0")], [("Q", b"selekt 1\0")]],
    "the extended protocol": [EXTENDED, [PARSE, BIND_TEXT, DESCRIBE_PORTAL, EXECUTE, SYNC], [SYNC]],
    "statement and portal apart": [[PARSE, SYNC], [DESCRIBE_STATEMENT, SYNC], [BIND_TEXT, EXECUTE, SYNC]],
    "errors skip up to Sync": [
        [PARSE, ("P", b"\0selekt 1\0\0\0"), BIND_TEXT, EXECUTE, PARSE, SYNC],
        [EXECUTE, PARSE, SYNC],
        [DESCRIBE_PORTAL, SYNC],
        EXTENDED,
    ],
    "nothing prepared": [[DESCRIBE_STATEMENT, SYNC], [BIND_TEXT, SYNC], [EXECUTE, SYNC], EXTENDED],
    "wrong binds": [  # with a parameter, and for a format that there is not
        [PARSE, ("B", bytes(4) + b"\0\1" + struct.pack(">I", 1) + b"1" + bytes(2)), SYNC],
        [PARSE, ("B", bytes(6) + b"\0\1\0\2"), EXECUTE, SYNC],
    ],
    "closing": [[PARSE, BIND_TEXT, ("C", b"P\0"), ("C", b"Snone\0"), SYNC], [("Q", b"select 1\0")]],
}


def without_texts(answer):
    """Of errors only severity and code: texts and lines of the source are PostgreSQL's own."""
    return [(kind, body if kind != "E" else [field for field in body.split(b"\0") if field[:1] in b"SVC"]) for kind, body in answer]


@pytest.mark.parametrize("name", CONVERSATION)
async def test_the_example_answers_as_postgresql_does(net, protocol, postgres, name):
    protocol.server.transport = net.transport
    net.check.watch(protocol.server)
    await net.start(protocol.server)
    ours, _ = await log_in(net, protocol, protocol.server)
    theirs, _ = await log_in(net, protocol, postgres)
    for messages in CONVERSATION[name]:
        assert without_texts(await ask(ours, *messages)) == without_texts(await ask(theirs, *messages)), messages
    await leave(ours)
    await leave(theirs)
