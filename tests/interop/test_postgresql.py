"""asyncpg and pg8000 against `examples/protocols/postgresql.py`: the layout changes in the middle of the stream."""

import asyncio
import struct

import pytest

LIMIT = 30.0  # seconds


def startup(body):
    return struct.pack(">I", 4 + len(body)) + body


def message(kind, body=b""):
    return kind + struct.pack(">I", 4 + len(body)) + body


PROTOCOL = struct.pack(">I", 3 << 16)
LOGIN = startup(PROTOCOL + b"user\0player\0database\0game\0\0")
SSL_REQUEST, CANCEL_REQUEST = startup(struct.pack(">I", 80877103)), startup(struct.pack(">III", 80877102, 1, 2))
QUERY, SYNC, TERMINATE = message(b"Q", b"select 1\0"), message(b"S"), message(b"X")


def assert_clean(served):
    stats = served.server.stats()
    assert (stats["handler_errors"], sum(stats["rejected"].values())) == (0, 0)
    assert set(stats["closed"]) <= {"peer_closed"}


async def talk(served, sent):
    """Send bytes, and read up to the end: (the kinds of messages, the body of the last one)."""
    async with asyncio.timeout(LIMIT):
        reader, writer = await asyncio.open_connection(served.host, served.port)
        try:
            writer.write(sent)
            return cut(await reader.read())
        finally:
            writer.close()


def cut(received):
    kinds, body = "", b""
    while received:
        (size,) = struct.unpack_from(">I", received, 1)
        kinds, body, received = kinds + chr(received[0]), received[5 : size + 1], received[size + 1 :]
    return kinds, body


async def test_pg8000(serve, in_thread, until):
    """It asks for TLS first: the answer is one byte without a frame."""
    pg8000 = pytest.importorskip("pg8000.native", reason="pg8000 is not installed; pip install gamenet[interop]")

    def use(host, port):
        with pg8000.Connection("player", host=host, port=port, timeout=LIMIT) as connection:
            assert connection.run("select 1") == [[1]]
            assert connection.columns[0]["name"] == "?column?"
            statement = connection.prepare("select 1")
            assert statement.run() == [[1]]
            statement.close()
            for use_it in (connection.run, connection.prepare):  # the simple and the extended protocol
                with pytest.raises(pg8000.DatabaseError, match="this server knows `select 1`"):
                    use_it("select 2")
                assert connection.run("select 1") == [[1]]

    served = await serve("postgresql")
    await in_thread(use, served.host, served.port)
    await until(lambda: not served.server.sessions)
    assert_clean(served)


@pytest.mark.parametrize("ssl", ["disable", "prefer"])
async def test_asyncpg(serve, until, ssl):
    asyncpg = pytest.importorskip("asyncpg", reason="asyncpg is not installed; pip install gamenet[interop]")
    served = await serve("postgresql")
    connection = await asyncpg.connect(user="player", host=served.host, port=served.port, ssl=ssl, timeout=LIMIT)
    try:
        assert connection.get_server_version()[:2] == (15, 0)
        assert await connection.fetchval("select 1") == 1  # a prepared statement, its result in binary
        assert await connection.execute("select 1") == "SELECT 1"  # the simple protocol
        for use_it in (connection.fetchval, connection.execute):
            with pytest.raises(asyncpg.PostgresSyntaxError, match="this server knows `select 1`"):
                await use_it("select 2")
            assert await connection.fetchval("select 1") == 1
        assert [tuple(row) for row in await connection.fetch("SELECT 1;")] == [(1,)]
    finally:
        await connection.close(timeout=LIMIT)
    await until(lambda: not served.server.sessions)
    assert_clean(served)


async def test_messages_that_lie_behind_the_start_up(serve):
    """The bytes of both layouts may come in one chunk: what is behind the start-up is read as messages."""
    served = await serve("postgresql")
    kinds, last = await talk(served, LOGIN + QUERY + QUERY + TERMINATE)
    assert (kinds, last) == ("R" + 6 * "S" + "KZ" + 2 * "TDCZ", b"I")
    assert_clean(served)


async def test_an_error_skips_up_to_sync(serve):
    served = await serve("postgresql")
    parse = message(b"P", b"\0select 1\0\0\0")
    bind, execute = message(b"B", bytes(8)), message(b"E", bytes(5))
    wrong = message(b"P", b"\0select 2\0\0\0")
    sent = [parse, bind, execute, wrong, bind, execute, SYNC, execute, parse, SYNC, bind, execute, SYNC, TERMINATE]
    kinds, _ = await talk(served, LOGIN + b"".join(sent))
    assert kinds.partition("KZ")[2] == "12DCEZ" + "EZ" + "2DCZ"


async def test_a_cancel_request_is_answered_by_the_end(serve):
    served = await serve("postgresql")
    assert await talk(served, CANCEL_REQUEST) == ("", b"")


@pytest.mark.parametrize("asked", [SSL_REQUEST, startup(struct.pack(">I", 80877104))])
async def test_encryption_is_refused_with_one_byte(serve, asked):
    served = await serve("postgresql")
    async with asyncio.timeout(LIMIT):
        reader, writer = await asyncio.open_connection(served.host, served.port)
        writer.write(asked)
        assert await reader.readexactly(1) == b"N"
        writer.write(LOGIN + TERMINATE)
        assert cut(await reader.read())[0] == "R" + 6 * "S" + "KZ"
        writer.close()


BAD = {
    "a start-up of 7 bytes": (struct.pack(">I", 7) + bytes(4), "", "invalid_packet"),
    "a start-up above the limit": (struct.pack(">I", 65_537), "", "invalid_packet"),
    "a request of HTTP": (b"GET / HTTP/1.1\r\n\r\n", "", "invalid_packet"),
    "protocol 2": (startup(struct.pack(">I", 2 << 16) + b"user\0player\0\0"), "E", "protocol_error"),
    "nobody": (startup(PROTOCOL + b"user\0\0\0"), "E", "protocol_error"),
    "no options": (startup(PROTOCOL), "E", "protocol_error"),
    "no UTF-8": (startup(PROTOCOL + b"user\0\xff\0\0"), "", "handler_error"),
    "a type that is none": (LOGIN + message(b"?") + QUERY, "Z", "unknown_packet"),
    "a second start-up": (LOGIN + message(b"\0", PROTOCOL + b"user\0admin\0\0") + QUERY, "Z", "handler_error"),
    "a message of 3 bytes": (LOGIN + b"Q" + struct.pack(">I", 3) + QUERY, "Z", "invalid_packet"),
    "a message above the limit": (LOGIN + b"Q" + struct.pack(">I", 65536) + QUERY, "Z", "invalid_packet"),
    "a statement without end": (LOGIN + message(b"Q", b"select 1") + QUERY, "Z", "handler_error"),
    "half a bind": (LOGIN + message(b"P", b"\0select 1\0\0\0") + message(b"B", bytes(3)), "1", "handler_error"),
}


@pytest.mark.parametrize("relay", ["as it comes"], indirect=True)  # what is sent to a closed session resets the relay
@pytest.mark.parametrize("name", BAD)
async def test_bad_input_ends_the_session(serve, until, name):
    served = await serve("postgresql")
    sent, last, reason = BAD[name]
    kinds, _ = await talk(served, sent)
    assert kinds[-1:] == last
    assert "T" not in kinds
    await until(lambda: not served.server.sessions)
    assert served.server.stats()["closed"] == {reason: 1}
