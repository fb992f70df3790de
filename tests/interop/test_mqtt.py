"""`examples/protocols/mqtt_broker.py` with paho-mqtt: several clients, each with a thread of its own."""

import queue
from contextlib import ExitStack, contextmanager

import pytest

TIMEOUT = 20.0


@pytest.fixture
def paho():
    return pytest.importorskip("paho.mqtt.client", reason="paho-mqtt is not installed")


@pytest.fixture
def play(paho, serve, in_thread):
    """`await play(scene)`: runs `scene(connect)` in a thread; `connect(name)` gives a connected `Peer`. The server."""

    async def run(scene):
        served = await serve("mqtt_broker")

        def run_scene():
            with ExitStack() as stack:
                scene(lambda name, **options: stack.enter_context(connected(paho, served, name, **options)))

        await in_thread(run_scene)
        assert served.server.stats()["handler_errors"] == 0
        return served.server

    return run


@contextmanager
def connected(paho, served, name, keepalive=60):
    peer = Peer(paho.Client(paho.CallbackAPIVersion.VERSION2, name, reconnect_on_failure=False))
    peer.client.connect(served.host, served.port, keepalive)
    peer.client.loop_start()
    try:
        assert peer.connects.get(timeout=TIMEOUT) == "Success"
        yield peer
        peer.client.disconnect()
        assert peer.disconnects.get(timeout=TIMEOUT) == "Normal disconnection"
    finally:
        peer.client.loop_stop()


class Peer:
    """A client of paho's, and what came back to it."""

    def __init__(self, client):
        self.client = client
        self.connects, self.disconnects, self.answers, self.messages, self.log = (queue.SimpleQueue() for _ in range(5))
        client.on_connect = lambda client, data, flags, reason, properties: self.connects.put(str(reason))
        client.on_disconnect = lambda client, data, flags, reason, properties: self.disconnects.put(str(reason))
        client.on_subscribe = lambda client, data, number, reasons, properties: self.answers.put(reasons)
        client.on_unsubscribe = lambda client, data, number, reasons, properties: self.answers.put("unsubscribed")
        client.on_message = lambda client, data, message: self.messages.put(message)
        client.on_log = lambda client, data, level, line: self.log.put(line)

    def subscribe(self, *filters):
        self.client.subscribe(list(filters))
        return [reason.value for reason in self.answers.get(timeout=TIMEOUT)]

    def unsubscribe(self, topic_filter):
        self.client.unsubscribe(topic_filter)
        assert self.answers.get(timeout=TIMEOUT) == "unsubscribed"

    def publish(self, topic, payload, qos=0, retain=False):
        published = self.client.publish(topic, payload, qos, retain)
        published.wait_for_publish(TIMEOUT)
        assert published.is_published()

    def receive(self):
        message = self.messages.get(timeout=TIMEOUT)
        return message.topic, message.payload, message.qos, message.retain


async def test_both_qualities_of_service(play, until):
    def scene(connect):
        alice, bob = connect("alice"), connect("bob")
        assert bob.subscribe(("chat", 0), ("moves", 1), ("rest", 2)) == [0, 1, 1]
        for topic in ("chat", "moves"):
            for qos in (0, 1):
                alice.publish(topic, f"{qos}", qos)
        assert [bob.receive() for _ in range(4)] == [
            ("chat", b"0", 0, False), ("chat", b"1", 0, False), ("moves", b"0", 0, False), ("moves", b"1", 1, False),
        ]  # fmt: skip

    server = await play(scene)
    await until(lambda: server.stats()["closed"] == {"disconnected": 2})


async def test_wildcards_reach_whom_they_should(play):
    def scene(connect):
        peers = {topic_filter: connect(topic_filter) for topic_filter in ("game/+/chat", "game/#", "#", "game/1/moves")}
        for topic_filter, peer in peers.items():
            assert peer.subscribe((topic_filter, 1)) == [1]
        for topic in ("game", "game/1/chat", "game/1/moves", "game/1/chat/2", "other", "end"):
            peers["#"].publish(topic, b"", 1)
        expected = {
            "game/+/chat": ["game/1/chat"],
            "game/#": ["game", "game/1/chat", "game/1/moves", "game/1/chat/2"],
            "#": ["game", "game/1/chat", "game/1/moves", "game/1/chat/2", "other", "end"],
            "game/1/moves": ["game/1/moves"],
        }
        for peer in peers.values():  # nothing else can be on its way once this has come
            peer.subscribe(("done", 1))
        peers["#"].publish("done", b"", 1)
        for topic_filter, peer in peers.items():
            received = [peer.receive()[0] for _ in range(len(expected[topic_filter]) + 1)]
            assert received == [*expected[topic_filter], "done"]

    await play(scene)


async def test_retained_messages_wait_for_subscribers(play):
    def scene(connect):
        alice = connect("alice")
        alice.publish("motd", "tomorrow", 1, retain=True)
        alice.publish("motd", "today", 1, retain=True)
        alice.publish("gone", "soon", 1, retain=True)
        alice.publish("gone", "", 1, retain=True)
        bob = connect("bob")
        bob.subscribe(("#", 1))
        alice.publish("motd", "later", 1)
        assert [bob.receive(), bob.receive()] == [("motd", b"today", 1, True), ("motd", b"later", 1, False)]

    await play(scene)


async def test_who_unsubscribes_hears_no_more(play):
    def scene(connect):
        alice = connect("alice")
        alice.subscribe(("chat", 0), ("moves", 0))
        alice.unsubscribe("chat")
        alice.publish("chat", "a", 1)
        alice.publish("moves", "b", 1)
        assert alice.receive() == ("moves", b"b", 0, False)

    await play(scene)


async def test_sizes_of_one_byte_to_three(play, relay):
    sizes = [0, 100, 127, 128, 300] + ([] if relay.mode == "one byte at a time" else [16_383, 16_384, 100_000])

    def scene(connect):
        alice, bob = connect("alice"), connect("bob")
        bob.subscribe(("#", 1))
        for size in sizes:
            alice.client.publish("topic", bytes(size), 1)
        assert [len(bob.receive()[1]) for _ in sizes] == sizes

    await play(scene)


async def test_a_burst_keeps_its_order(play):
    def scene(connect):
        alice, bob = connect("alice"), connect("bob")
        bob.subscribe(("#", 1))
        for number in range(40):
            alice.client.publish("topic", str(number), 1)  # more than paho lets be on their way at once
        assert [int(bob.receive()[1]) for _ in range(40)] == list(range(40))

    await play(scene)


async def test_pings_are_answered(play, relay):
    if relay.mode != "as it comes":
        pytest.skip("takes a second, and two bytes are the same in every mode")

    def scene(connect):
        alice = connect("alice", keepalive=1)
        while alice.log.get(timeout=TIMEOUT) != "Received PINGRESP":
            pass

    await play(scene)


async def test_an_older_protocol_is_refused(paho, serve, in_thread):
    served = await serve("mqtt_broker")
    peer = Peer(paho.Client(paho.CallbackAPIVersion.VERSION2, "old", protocol=paho.MQTTv31, reconnect_on_failure=False))

    def connect():
        peer.client.connect(served.host, served.port)
        peer.client.loop_start()
        try:
            return peer.connects.get(timeout=TIMEOUT)
        finally:
            peer.client.loop_stop()

    assert await in_thread(connect) == "Unsupported protocol version"


CONNECT = b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01x"


@pytest.mark.parametrize(
    "sent",
    [b"\xc0\0", CONNECT + CONNECT, b"\x10\x02\0\x04", b"\x10\0", CONNECT + b"\x30\x03\0\x09a", CONNECT + b"\x32\x03\0\x01a",
     CONNECT + b"\x30\x03\0\x01#", CONNECT + b"\x30\x04\0\x02\xff\xfe", CONNECT + b"\x82\x05\0\x01\0\x01a",
     CONNECT + b"\x82\x03\0\x01\0", CONNECT + b"\x34\x05\0\x01a\0\x01", CONNECT + b"\x30\xff\xff\xff\xff"],
    ids=["ping first", "twice", "short connect", "empty connect", "topic too long", "no number", "wildcard", "not UTF-8",
         "no quality", "short filter", "QoS 2", "endless size"],
)  # fmt: skip
async def test_rubbish_ends_the_session(send_bytes, sent):
    server, answer = await send_bytes("mqtt_broker", sent)
    assert answer == (b"\x20\x02\0\0" if sent.startswith(CONNECT) else b"")
    assert server.stats()["handler_errors"] == 0
