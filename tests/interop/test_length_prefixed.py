"""`examples/protocols/length_prefixed.py` with Twisted's `Int16StringReceiver` and `Int32StringReceiver`."""

import queue
import threading

import pytest

TIMEOUT = 20.0
GONE = object()


@pytest.fixture(scope="session")
def reactor():
    """Twisted's reactor, in a thread: it runs once in a process."""
    pytest.importorskip("twisted.internet.reactor", reason="Twisted is not installed")
    from twisted.internet import reactor

    thread = threading.Thread(target=reactor.run, kwargs={"installSignalHandlers": False}, daemon=True)
    thread.start()
    yield reactor
    reactor.callFromThread(reactor.stop)
    thread.join(TIMEOUT)
    assert not thread.is_alive()


@pytest.fixture
def converse(reactor, serve, in_thread):
    """`await converse(receiver, strings)`: what came back to a client that sent them all at once; `GONE` for the end."""
    from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
    from twisted.internet.threads import blockingCallFromThread
    from twisted.protocols import basic

    def exchange(served, receiver, strings):
        received = queue.SimpleQueue()

        class Receiver(getattr(basic, receiver)):
            def stringReceived(self, string):
                received.put(string)

            def connectionLost(self, reason):
                received.put(GONE)

        def send():
            for string in strings:
                protocol.sendString(string)

        endpoint = TCP4ClientEndpoint(reactor, served.host, served.port, timeout=TIMEOUT)
        protocol = blockingCallFromThread(reactor, connectProtocol, endpoint, Receiver())
        reactor.callFromThread(send)
        echoes = []
        while len(echoes) < len(strings) and GONE not in echoes:
            echoes.append(received.get(timeout=TIMEOUT))
        reactor.callFromThread(protocol.transport.abortConnection)
        assert GONE in echoes or received.get(timeout=TIMEOUT) is GONE
        return echoes

    async def run(receiver, strings):
        served = await serve("length_prefixed", {"Int16StringReceiver": "int16_server"}.get(receiver, "int32_server"))
        return served.server, await in_thread(exchange, served, receiver, strings)

    return run


@pytest.mark.parametrize("receiver", ["Int16StringReceiver", "Int32StringReceiver"])
async def test_strings_come_back(converse, receiver, rng):
    strings = [rng.randbytes(size) for size in (0, 1, 2, 255, 256, 257, 0, 1000)]
    server, echoes = await converse(receiver, strings)
    assert echoes == strings
    assert server.stats()["packets_dispatched"] == len(strings)


@pytest.mark.parametrize(("receiver", "size"), [("Int16StringReceiver", 65_535), ("Int32StringReceiver", 99_999)])
async def test_the_longest_strings(converse, relay, receiver, size, rng):
    if relay.mode == "one byte at a time":
        pytest.skip("takes long, and shows nothing that short strings do not")
    strings = [rng.randbytes(size) for _ in range(3)]
    _, echoes = await converse(receiver, strings)
    assert echoes == strings


async def test_a_string_above_the_limit_ends_the_session(converse):
    server, echoes = await converse("Int32StringReceiver", [bytes(100_000), b"never"])
    assert echoes == [GONE]
    assert server.stats()["rejected"]["invalid"] == 1
