"""`examples/protocols/dns.py` with dnspython, over TCP."""

import asyncio
import socket
import struct

import pytest

TIMEOUT = 20.0


@pytest.fixture
def dnspython():
    """`dns`, with the submodules that are used here."""
    dns = pytest.importorskip("dns", reason="dnspython is not installed")
    for name in ("asyncquery", "flags", "message", "opcode", "query", "rcode", "resolver"):
        pytest.importorskip(f"dns.{name}", reason="dnspython is not installed")
    return dns


@pytest.fixture
def make_resolver(dnspython):
    def make(served):
        resolver = dnspython.resolver.Resolver(configure=False)
        resolver.nameservers = [served.host]
        resolver.port = served.port
        resolver.timeout = resolver.lifetime = TIMEOUT
        return resolver

    return make


async def test_names_are_resolved(dnspython, make_resolver, serve, in_thread):
    served = await serve("dns")
    resolver = make_resolver(served)
    answer = await in_thread(resolver.resolve, "play.example.", "A", tcp=True)
    assert [record.address for record in answer] == ["192.0.2.1", "192.0.2.2"]
    assert answer.rrset.ttl == 300
    answer = await in_thread(resolver.resolve, "CHAT.Example.", "A", tcp=True)
    assert [record.address for record in answer] == ["192.0.2.3"]


async def test_what_is_not_there(dnspython, make_resolver, serve, in_thread):
    served = await serve("dns")
    resolver = make_resolver(served)
    with pytest.raises(dnspython.resolver.NXDOMAIN):
        await in_thread(resolver.resolve, "nobody.example.", "A", tcp=True)
    with pytest.raises(dnspython.resolver.NoAnswer):
        await in_thread(resolver.resolve, "play.example.", "AAAA", tcp=True)
    assert served.server.stats()["handler_errors"] == 0


async def test_queries_need_not_wait_for_answers(dnspython, serve, in_thread):
    served = await serve("dns")
    names = ["play.example.", "nobody.example.", "chat.example."]
    queries = [dnspython.message.make_query(name, "A", use_edns=use_edns) for name in names for use_edns in (False, True)]

    def ask():
        with socket.create_connection((served.host, served.port), TIMEOUT) as connection:
            for query in queries:
                dnspython.query.send_tcp(connection, query)
            return [dnspython.query.receive_tcp(connection)[0] for _ in queries]

    answers = await in_thread(ask)
    assert all(query.is_response(answer) for query, answer in zip(queries, answers, strict=True))
    assert [len(answer.answer) for answer in answers] == [1, 1, 0, 0, 1, 1]
    assert [answer.rcode() for answer in answers] == [0, 0, 3, 3, 0, 0]


async def test_many_clients_at_once(dnspython, serve):
    served = await serve("dns")
    query = dnspython.message.make_query("chat.example.", "A")
    answers = await asyncio.gather(
        *(dnspython.asyncquery.tcp(query, served.host, TIMEOUT, served.port) for _ in range(5))
    )
    assert [answer.answer[0][0].address for answer in answers] == 5 * ["192.0.2.3"]


async def test_what_is_not_implemented(dnspython, serve, in_thread):
    served = await serve("dns")
    query = dnspython.message.make_query("play.example.", "A")
    query.set_opcode(dnspython.opcode.STATUS)
    answer = await in_thread(dnspython.query.tcp, query, served.host, TIMEOUT, served.port)
    assert answer.rcode() == dnspython.rcode.NOTIMP
    query = dnspython.message.make_query("play.example.", "A", "CH")
    answer = await in_thread(dnspython.query.tcp, query, served.host, TIMEOUT, served.port)
    assert answer.rcode() == dnspython.rcode.REFUSED


@pytest.mark.parametrize(
    "question",
    [b"", b"\x04play", b"\x04play\0", b"\x04play\0\0\x01\0", b"\xc0\x0c\0\x01\0\x01", b"\x01\xff\0\0\x01\0\x01",
     5 * (b"\x3f" + 63 * b"x") + b"\0\0\x01\0\x01"],
    ids=["empty", "no end", "no type", "half a class", "pointer", "not ASCII", "too long"],
)  # fmt: skip
async def test_questions_that_cannot_be_read(send_bytes, question):
    message = struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0) + question
    server, answer = await send_bytes("dns", struct.pack(">H", len(message)) + message, then_end=True)
    assert answer == struct.pack(">7H", 12, 7, 0x8501, 0, 0, 0, 0)
    assert server.stats()["handler_errors"] == 0


async def test_a_message_below_its_header_ends_the_session(send_bytes):
    server, answer = await send_bytes("dns", b"\0\x0b" + bytes(12))
    assert answer == b""
    assert server.stats()["rejected"]["invalid"] == 1
