"""pymysql against `examples/protocols/mysql.py`: 3-byte sizes, a sequence byte, and a server that speaks first."""

import asyncio
import struct

import pytest

pymysql = pytest.importorskip("pymysql", reason="pymysql is not installed; pip install gamenet[interop]")

LIMIT = 30  # seconds


def options(served, **changes):
    login = {"user": "player", "password": "secret", "host": served.host, "port": served.port}
    return {**login, "connect_timeout": LIMIT, "read_timeout": LIMIT, "write_timeout": LIMIT, **changes}


def packet(sequence, body):
    return len(body).to_bytes(3, "little") + bytes((sequence,)) + body


async def read_packet(reader):
    head = await reader.readexactly(4)
    return head[3], await reader.readexactly(int.from_bytes(head[:3], "little"))


async def test_pymysql(serve, in_thread, until):
    def use():
        with pymysql.connect(**options(served)) as connection:
            assert connection.get_server_info() == "8.0.0-gamenet"
            connection.ping(reconnect=False)
            with connection.cursor() as cursor:
                assert cursor.execute("select 1") == 1
                assert cursor.fetchall() == ((1,),)
                assert cursor.description[0][:2] == ("1", pymysql.constants.FIELD_TYPE.LONGLONG)
            connection.ping(reconnect=False)

    served = await serve("mysql")
    await in_thread(use)
    await until(lambda: not served.server.sessions)
    stats = served.server.stats()
    assert (stats["handler_errors"], sum(stats["rejected"].values())) == (0, 0)
    assert stats["closed"] == {"peer_closed": 1}


async def test_the_connection_outlives_errors(serve, in_thread):
    def use():
        with pymysql.connect(**options(served)) as connection, connection.cursor() as cursor:
            with pytest.raises(pymysql.err.ProgrammingError, match="knows `select 1`") as error:
                cursor.execute("drop table players")
            assert error.value.args[0] == pymysql.constants.ER.PARSE_ERROR
            with pytest.raises(pymysql.err.OperationalError, match="Unknown command") as error:
                connection.select_db("game")
            assert error.value.args[0] == pymysql.constants.ER.UNKNOWN_COM_ERROR
            assert cursor.execute("SELECT 1;") == 1
            return cursor.fetchone()

    served = await serve("mysql")
    assert await in_thread(use) == (1,)


@pytest.mark.parametrize("wrong", [{"password": "Secret"}, {"password": ""}, {"user": "nobody"}])
async def test_who_may_not_log_in(serve, in_thread, until, wrong):
    served = await serve("mysql")
    with pytest.raises(pymysql.err.OperationalError, match="Access denied") as error:
        await in_thread(pymysql.connect, **options(served, **wrong))
    assert error.value.args[0] == pymysql.constants.ER.ACCESS_DENIED_ERROR
    await until(lambda: not served.server.sessions)
    assert served.server.stats()["closed"] == {"access_denied": 1}


async def log_in(served, reader):
    """The client's side: the packet that answers the server's greeting."""
    sequence, greeting = await read_packet(reader)
    assert (sequence, greeting[0]) == (0, 10)
    _, rest = greeting.split(b"\0", 1)
    challenge = rest[4:12] + rest[31:43]
    proof = served.module.native_password(b"secret", challenge)
    body = struct.pack("<IIB23x", 0x8200, 1 << 24, 45) + b"player\0" + bytes((len(proof),)) + proof
    return packet(1, body)


async def test_all_commands_in_one_segment(serve):
    """A client that waits for nothing but the greeting; every exchange has its own numbers."""
    served = await serve("mysql")
    async with asyncio.timeout(LIMIT):
        reader, writer = await asyncio.open_connection(served.host, served.port)
        commands = [b"\x0e", b"\x03select 1", b"\x0e", b"\x01"]
        writer.write(await log_in(served, reader) + b"".join(packet(0, body) for body in commands))
        answers = [await read_packet(reader) for _ in range(8)]
        assert await reader.read() == b""
        writer.close()
    ok, eof = served.module.OK, served.module.EOF
    assert answers[:2] == [(2, ok), (1, ok)]
    assert answers[2] == (1, b"\x01")
    assert answers[3][0] == 2
    assert answers[4:] == [(3, eof), (4, b"\x011"), (5, eof), (1, ok)]


BAD = {
    "an empty packet": (packet(0, b""), "invalid_packet"),
    "a size above the limit": (b"\xfd\xff\0\0", "invalid_packet"),
    "out of order": (packet(1, b"\x0e"), "invalid_packet"),
    "no UTF-8": (packet(0, b"\x03\xff"), "handler_error"),
}


@pytest.mark.parametrize("relay", ["as it comes"], indirect=True)  # what is sent to a closed session resets the relay
@pytest.mark.parametrize("name", BAD)
async def test_bad_input_ends_the_session(serve, until, name):
    served = await serve("mysql")
    bad, reason = BAD[name]
    async with asyncio.timeout(LIMIT):
        reader, writer = await asyncio.open_connection(served.host, served.port)
        writer.write(await log_in(served, reader) + bad + packet(0, b"\x0e"))
        assert await read_packet(reader) == (2, served.module.OK)
        rest = await reader.read()
        writer.close()
    assert rest[4:7] == (struct.pack("<BH", 0xFF, 1156) if name == "out of order" else b"")
    await until(lambda: not served.server.sessions)
    assert served.server.stats()["closed"] == {reason: 1}


@pytest.mark.parametrize("body", [b"\0", bytes(32) + b"player", bytes(32) + b"player\0\x14short"])
async def test_a_login_that_is_none(serve, body):
    served = await serve("mysql")
    async with asyncio.timeout(LIMIT):
        reader, writer = await asyncio.open_connection(served.host, served.port)
        await read_packet(reader)
        writer.write(packet(1, body))
        rest = await reader.read()
        writer.close()
    assert rest[4:7] in (b"", struct.pack("<BH", 0xFF, 1045))
