"""pymongo against `examples/protocols/mongodb.py`: sizes that count the whole packet, answers that name their request."""

import asyncio
import struct

import pytest

pymongo = pytest.importorskip("pymongo", reason="pymongo is not installed; pip install gamenet[interop]")
bson = pytest.importorskip("bson", reason="this bson is pymongo's own")

LIMIT = 30.0  # seconds


def message(code, body, request_id=77):
    return struct.pack("<iiii", 16 + len(body), request_id, 0, code) + body


def command(document, flags=0):
    return message(2013, struct.pack("<IB", flags, 0) + bson.encode(document))


def legacy(document):
    return message(2004, struct.pack("<I", 0) + b"admin.$cmd\0" + struct.pack("<ii", 0, -1) + bson.encode(document))


async def read_message(reader):
    """(request_id, response_to, code, body)."""
    size, *numbers = struct.unpack("<iiii", await reader.readexactly(16))
    return *numbers, await reader.readexactly(size - 16)


async def talk(served, sent):
    """Send bytes and the end, and read what comes back up to the end."""
    async with asyncio.timeout(LIMIT):
        reader, writer = await asyncio.open_connection(served.host, served.port)
        try:
            writer.write(sent)
            writer.write_eof()
            return await reader.read()
        finally:
            writer.close()


async def test_pymongo(serve, in_thread):
    def use(host, port):
        with pymongo.MongoClient(host, port, serverSelectionTimeoutMS=LIMIT * 1000) as client:
            assert client.admin.command("ping") == {"ok": 1.0}
            hello = client.admin.command("hello")
            assert (hello["isWritablePrimary"], hello["maxMessageSizeBytes"]) == (True, 65536)
            with pytest.raises(pymongo.errors.OperationFailure, match="no such command: 'dropDatabase'") as error:
                client.drop_database("game")
            assert error.value.code == 59
            assert client.admin.command("ping") == {"ok": 1.0}

    served = await serve("mongodb")
    await in_thread(use, served.host, served.port)
    stats = served.server.stats()
    assert (stats["handler_errors"], sum(stats["rejected"].values())) == (0, 0)
    assert stats["accepted"] >= 2  # one that looks after the server, one for commands


async def test_pymongo_of_asyncio(serve):
    served = await serve("mongodb")
    async with asyncio.timeout(LIMIT):
        async with pymongo.AsyncMongoClient(served.host, served.port) as client:
            pings = [client.admin.command("ping") for _ in range(10)]
            assert await asyncio.gather(*pings) == [{"ok": 1.0}] * 10


async def test_a_hello_of_old_drivers(serve):
    """They begin with an OP_QUERY, which is answered by an OP_REPLY."""
    served = await serve("mongodb")
    answered = await talk(served, legacy({"ismaster": 1, "helloOk": True}))
    size, _, response_to, code, flags, cursor, start, returned = struct.unpack_from("<iiiiiqii", answered)
    assert (size, response_to, code) == (len(answered), 77, 1)
    assert (flags, cursor, start, returned) == (0, 0, 0, 1)
    hello = bson.decode(answered[36:])
    assert hello == served.module.HELLO
    assert {name: type(value) for name, value in hello.items()} == {
        name: type(value) for name, value in served.module.HELLO.items()
    }


async def test_commands_that_lie_together(serve):
    served = await serve("mongodb")
    sent = [message(2013, struct.pack("<IB", 0, 0) + bson.encode({"ping": 1}), number) for number in (1, -2, 3)]
    silent = command({"ping": 1}, flags=0x0002)  # moreToCome: nobody waits for an answer
    answered = await talk(served, b"".join([*sent, silent]))
    one = len(answered) // 3
    numbers = [struct.unpack_from("<ii", answered, 4 + at) for at in range(0, 3 * one, one)]
    assert numbers == [(0, 1), (0, -2), (0, 3)]
    assert [bson.decode(answered[at + 21 : at + one]) for at in range(0, 3 * one, one)] == [{"ok": 1.0}] * 3
    assert served.server.stats()["packets_dispatched"] == 4


PING = command({"ping": 1})
BAD = {
    "a size below the header": (struct.pack("<iiii", 15, 1, 0, 2013), "invalid_packet"),
    "a negative size": (struct.pack("<iiii", -1, 1, 0, 2013), "invalid_packet"),
    "a size above the limit": (struct.pack("<iiii", 65537, 1, 0, 2013), "invalid_packet"),
    "an unknown code": (message(2012, b""), "unknown_packet"),
    "no body": (message(2013, b""), "handler_error"),
    "half a document": (message(2013, PING[16:-1]), "handler_error"),
    "a document without end": (message(2013, struct.pack("<IBi", 0, 0, 7) + b"\x10pi"), "handler_error"),
    "an empty document": (command({}), "handler_error"),
    "a required flag": (command({"ping": 1}, flags=0x8000), "handler_error"),
    "a sequence of documents": (message(2013, struct.pack("<IB", 0, 1) + PING[21:]), "handler_error"),
    "a legacy query without end": (message(2004, b"\0\0\0\0admin"), "handler_error"),
}


@pytest.mark.parametrize("relay", ["as it comes"], indirect=True)  # what is sent to a closed session resets the relay
@pytest.mark.parametrize("name", BAD)
async def test_bad_input_ends_the_session(serve, until, name):
    """What was right before it is answered, what follows is not."""
    served = await serve("mongodb")
    bad, reason = BAD[name]
    answered = await talk(served, PING + bad + PING)
    assert len(answered) == struct.unpack_from("<i", answered)[0]
    await until(lambda: not served.server.sessions)
    assert served.server.stats()["closed"] == {reason: 1}
