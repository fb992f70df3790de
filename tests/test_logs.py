"""Log lines: limited by kind, escaped, without secrets, and with the session they are about."""

import asyncio
import logging
import re
import socket
import struct
import sys

import pytest
from program import ON_WINE
from wire import echo_server, read_packet, wire

from gamenet.logs import MAX_FRAMES, MAX_KINDS, MAX_TEXT, QUIET_AFTER, LimitedLogger, escape_traceback

LINGER_NO_TIME = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
EVIL = "evil\r\n2026-01-01 ERROR forged \x1b[31mline\u2028\u202e\x00"
ESCAPED = r"evil\r\n2026-01-01 ERROR forged \x1b[31mline\u2028\u202e\x00"


class Timers:
    """A clock, and `call_later` by it."""

    def __init__(self):
        self.now = 100.0
        self.calls = []
        self.most = 0

    def clock(self):
        return self.now

    def call_later(self, delay, callback):
        call = Call(self, self.now + delay, callback)
        self.calls.append(call)
        self.most = max(self.most, len(self.calls))
        return call

    def advance(self, seconds):
        self.now += seconds
        for call in [call for call in self.calls if call.when <= self.now]:
            self.calls.remove(call)
            call.callback()


class Call:
    def __init__(self, timers, when, callback):
        self.timers, self.when, self.callback = timers, when, callback

    def cancel(self):
        self.timers.calls.remove(self)


@pytest.fixture
def timers():
    return Timers()


@pytest.fixture
def log(timers, caplog):
    caplog.set_level(logging.INFO, "limited")
    return LimitedLogger(
        logging.getLogger("limited"), timers.clock, 5, total_per_second=20, call_later=timers.call_later
    )


def messages(caplog):
    return [record.getMessage() for record in caplog.records]


# -- how many lines


@pytest.mark.parametrize("asked", [4, 5, 6])
def test_so_many_lines_of_a_kind_a_second(log, caplog, asked):
    for n in range(asked):
        log.log(logging.INFO, "line %d", n)
    assert messages(caplog) == [f"line {n}" for n in range(min(asked, 5))]
    assert log.suppressed == max(0, asked - 5)


def test_a_flood_of_one_kind_leaves_the_others_alone(log, timers, caplog):
    for n in range(1000):
        log.log(logging.WARNING, "no handler for packet id %d", n)
    log.log(logging.ERROR, "a handler raised", error=ValueError("seen"))
    log.log(logging.INFO, "no handler for packet id %d", 1)  # another level is another kind
    assert messages(caplog)[5:] == ["a handler raised", "no handler for packet id 1"]
    assert "ValueError: seen" in caplog.text
    timers.now += 1
    log.log(logging.WARNING, "no handler for packet id %d", 7)
    assert messages(caplog)[-1] == "no handler for packet id 7 (and 995 lines like it left out)"
    log.log(logging.WARNING, "no handler for packet id %d", 8)
    assert messages(caplog)[-1] == "no handler for packet id 8"


def test_all_kinds_together_have_a_limit_but_each_gets_a_line_a_second(log, timers, caplog):
    for _ in range(3):
        before = len(caplog.records)
        for _ in range(50):
            for kind in range(30):
                log.log(logging.INFO, f"kind {kind}")
        assert {text.split(" (")[0] for text in messages(caplog)[before:]} == {f"kind {kind}" for kind in range(30)}
        assert len(caplog.records) - before <= 20 + 30
        timers.now += 1


@pytest.mark.parametrize("kinds", [MAX_KINDS - 1, MAX_KINDS, MAX_KINDS + 1, 10 * MAX_KINDS])
def test_so_many_kinds_are_known(log, timers, caplog, kinds):
    for _ in range(2):
        for kind in range(kinds):
            log.log(logging.INFO, f"kind {kind}")
    assert len(log._kinds) == min(kinds, MAX_KINDS)
    unknown = {f"kind {kind}" for kind in range(MAX_KINDS, kinds)}
    assert len([text for text in messages(caplog) if text in unknown]) <= 5
    timers.now += 1
    log.close()  # the kinds have nothing to report any more
    log.log(logging.INFO, "a new kind")
    assert messages(caplog)[-1] == "a new kind"
    assert len(log._kinds) <= MAX_KINDS


def test_what_was_left_out_is_reported_when_it_is_quiet(log, timers, caplog):
    for n in range(8):
        log.log(logging.WARNING, "line %d of %s", n, "x")
    for _ in range(7):
        log.log(logging.INFO, "other")
    assert (timers.most, len(timers.calls)) == (1, 1)
    timers.advance(QUIET_AFTER - 1)
    log.log(logging.DEBUG, "line %d of %s", 0, "below the level: no line, and not counted")
    for n in range(6):
        log.log(logging.WARNING, "line %d of %s", n, "x")
    assert messages(caplog)[-5] == "line 0 of x (and 3 lines like it left out)"
    del caplog.records[:]
    timers.advance(1)
    assert messages(caplog) == ["left out 2 lines like: other"]
    assert caplog.records[0].levelno == logging.INFO
    timers.advance(QUIET_AFTER)
    assert messages(caplog)[1:] == ["left out 1 lines like: line ... of ..."]
    assert (log.suppressed, timers.calls, timers.most) == (0, [], 1)


def test_close_reports_the_rest(log, timers, caplog):
    for n in range(8):
        log.log(logging.WARNING, "line %d", n)
    log.close()
    log.close()
    assert messages(caplog)[5:] == ["left out 3 lines like: line ..."]
    assert timers.calls == []
    for n in range(8):
        log.log(logging.WARNING, "line %d", n)
    assert timers.calls == []


def test_a_level_that_is_off_costs_no_line(log, caplog):
    for _ in range(100):
        log.log(logging.DEBUG, "detail")
    assert (log.suppressed, caplog.records, log._kinds) == (0, [], {})


# -- what stands in them


def test_values_are_escaped_and_shortened(log, caplog):
    class Thing:
        def __str__(self):
            return EVIL

    log.log(logging.INFO, "%s %s %d %g %s", EVIL, Thing(), 3, 0.5, True)
    assert messages(caplog) == [f"{ESCAPED} {ESCAPED} 3 0.5 True"]


@pytest.mark.parametrize("size", [MAX_TEXT - 1, MAX_TEXT, MAX_TEXT + 1])
def test_long_texts_are_cut(log, caplog, size):
    log.log(logging.INFO, "%s", "x" * size)
    cut = f"... ({size} characters)" if size > MAX_TEXT else ""
    assert messages(caplog) == ["x" * min(size, MAX_TEXT) + cut]


def raised(function):
    try:
        function()
    except BaseException as error:
        return error


def test_a_traceback_cannot_be_forged(log, caplog):
    def handler():
        try:
            raise KeyError(EVIL)
        except KeyError as error:
            raise ValueError(EVIL) from error

    error = raised(handler)
    error.add_note(EVIL)
    log.log(logging.ERROR, "it raised", error=error)
    text = caplog.text
    assert "\n2026-01-01" not in text
    assert "\x1b" not in text
    lines = text.split("\n")
    assert f"ValueError: {ESCAPED}\\n{ESCAPED}" in lines
    assert "KeyError: " + repr(EVIL).encode("unicode_escape").decode().replace("\\\\", "\\") in lines
    assert [line for line in lines if "direct cause" in line]
    assert len([line for line in lines if "in handler" in line]) == 2
    assert caplog.records[0].exc_info[1] is error


def test_a_traceback_is_pythons_own_but_for_what_is_escaped():
    import traceback

    def handler():
        try:
            {}["no control characters"]
        except KeyError:
            raise ValueError("none here") from None

    error = raised(handler)
    assert escape_traceback(error) == "".join(traceback.format_exception(error)).rstrip("\n")
    assert escape_traceback(KeyError("never raised")) == "KeyError: 'never raised'"


def test_tracebacks_are_bounded(log):
    def recurse(depth):
        return other(depth - 1)

    def other(depth):
        return recurse(depth)

    text = escape_traceback(raised(lambda: recurse(1 << 30)))
    assert len(text.split("\n")) <= 4 * MAX_FRAMES
    assert len(escape_traceback(ValueError("x" * 100_000))) < 2 * MAX_TEXT

    def chain(links):
        try:
            if links:
                chain(links - 1)
        finally:
            raise ValueError(f"link {links}")

    text = escape_traceback(raised(lambda: chain(100)))
    assert len([line for line in text.split("\n") if line.startswith("ValueError: link")]) == 11
    group = ExceptionGroup("several\n", [ValueError(EVIL), *[KeyError(n) for n in range(50)]])
    text = escape_traceback(group)
    assert f"    ValueError: {ESCAPED}" in text.split("\n")
    assert "  and 41 more" in text.split("\n")


# -- the lines of sessions


async def test_every_line_about_a_session_says_which(net, until, caplog):
    class Login(net.gamenet.Packet, id=5):
        name: str = net.gamenet.char(16)

    server = await net.server(start=False, idle_timeout=0.2)
    server.on_opened(lambda session: 1 / 0)
    server.on_closed(lambda session, reason: 1 / 0)
    server.on(1)(lambda session, packet: session.reply(packet))
    server.on(2)(lambda session, packet: 1 / 0)
    server.on(Login)(lambda session, packet: None)
    caplog.set_level(logging.DEBUG, "gamenet")

    @server.on(3)
    async def waits(session, packet):
        await asyncio.sleep(0)
        raise LookupError

    await net.start(server)
    reader, writer = await net.open(server)
    writer.write(wire(2) + wire(3) + wire(9) + wire(5, b"short") + wire(1))
    await read_packet(reader)
    (session,) = server.sessions
    await until(lambda: len(server.sessions) == 0)
    about = [record for record in caplog.records if record.name == "gamenet" and "hold" not in record.getMessage()]
    texts = ["hook", "handler of packet id 2 raised", "handler of packet id 3 raised", "no handler for packet id 9",
             "Login needs a body of 16 bytes, got 5", "nothing received", "hook"]
    for text, record in zip(texts, about, strict=True):
        assert text in record.getMessage()
        assert (record.session_id, record.peer) == (session.id, session.peername)
        assert f"session {session.id} " in record.getMessage()
    assert [getattr(record, "packet_id", None) for record in about] == [None, 2, 3, 9, 5, None, None]


async def test_unknown_ids_do_not_swallow_a_handlers_traceback(net, until, caplog):
    server = await echo_server(net)
    server.on(2)(lambda session, packet: 1 / 0)
    reader, writer = await net.open(server)
    with caplog.at_level(logging.DEBUG, "gamenet"):
        writer.write(wire(77) * 2000 + wire(2) + wire(1))
        await read_packet(reader)
        assert "ZeroDivisionError" in caplog.text
        shown = [record for record in caplog.records if "no handler for packet id 77" in record.getMessage()]
        await server.stop()
    told = r"and (\d+) lines like it left out|left out (\d+) lines like: session .* no handler for packet id .* bytes$"
    left_out = [int(one or other) for one, other in re.findall(told, caplog.text, re.MULTILINE)]
    assert left_out  # more than once where it took longer than a second
    assert sum(left_out) + len(shown) == 2000


async def test_what_a_peer_chose_cannot_forge_lines(net, caplog):
    server = await echo_server(net)

    @server.on(2)
    def handler(session, packet):
        raise ValueError(packet.body.decode())

    @server.on(3)
    async def waits(session, packet):
        await asyncio.sleep(0)
        raise net.gamenet.InvalidPacketError(packet.body.decode())

    reader, writer = await net.open(server)
    with caplog.at_level(logging.DEBUG, "gamenet"):
        writer.write(wire(2, EVIL.encode()) + wire(1) + wire(3, EVIL.encode()))
        await read_packet(reader)
        assert await reader.read() == b""
    assert caplog.text.count(ESCAPED) == 2
    assert "\x1b" not in caplog.text
    assert "\n2026-01-01" not in caplog.text


@pytest.mark.skipif(ON_WINE, reason="under wine the end of a connection whose reading was paused is not always told")
async def test_a_large_answer_to_a_peer_that_has_reset_is_no_page_of_lines(net, until, caplog):
    """The transports' own loggers know no limit: `socket.send() raised exception.` for each write behind the first."""
    server = await net.server()

    @server.on(1)
    def answer(session, packet):
        for _ in range(300):
            session.send(2, bytes(4000))

    with caplog.at_level(logging.INFO):
        for _ in range(5):
            sock = socket.create_connection(("127.0.0.1", server.port))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NO_TIME)
            sock.sendall(wire(1) * 3)
            sock.close()
        await until(lambda: server.stats()["accepted"] == 5 and not server.sessions)
    others = [record for record in caplog.records if record.name != "gamenet" and record.levelno >= logging.WARNING]
    assert [record.getMessage() for record in others] == []


SECRET = "hunter2-hunter2"


async def test_no_secret_reaches_a_line(net, caplog):
    """Whatever goes wrong with a packet that has a secret field, inside a handler or at its making."""
    gamenet = net.gamenet

    class Login(gamenet.Packet, id=1001):
        name: str = gamenet.char(16)
        password: str = gamenet.char(32, secret=True)
        key: bytes = gamenet.raw(16, secret=True, default=b"")

    server = await echo_server(net)
    mistakes = [
        lambda packet: (_ for _ in ()).throw(ValueError(f"cannot log in {packet} {packet!r} {[packet]}")),
        lambda packet: setattr(packet, "password", packet.password * 10),
        lambda packet: setattr(packet, "password", packet.password + "\0"),
        lambda packet: setattr(packet, "password", packet.password.encode()),
        lambda packet: setattr(packet, "key", packet.password),
        lambda packet: setattr(packet, "key", packet.password.encode() * 2),
        lambda packet: Login(packet.name, packet.password * 10),
        lambda packet: Login(packet.name, packet.password, packet.password),
        lambda packet: Login(packet.name, packet.password, b"", packet.password),
        lambda packet: Login.unpack(packet.password.encode()),
        lambda packet: packet.no_such_field,
        lambda packet: session_of(server).send(packet, packet.body),
        lambda packet: session_of(server).send(1, packet.password),
        lambda packet: session_of(server).send(packet.password),
        lambda packet: session_of(server).send(1, packet.body * 200),
        lambda packet: (_ for _ in ()).throw(gamenet.InvalidPacketError(f"no good: {packet}")),
    ]

    @server.on(Login)
    def login(session, packet):
        logging.getLogger("game").info("login %s", packet)
        mistakes[packet.sequence](packet)

    @server.on_batch(1002)
    def batch(session, batch):
        raise ValueError(f"{batch} {batch[0]}")

    body = Login("somebody", SECRET, SECRET.encode()).body
    with caplog.at_level(logging.DEBUG):
        for number in range(len(mistakes)):
            reader, writer = await net.open(server)
            writer.write(wire(1001, body, number) + wire(1001, body[:20]) + wire(1002, body) + wire(4, body) + wire(1))
            await reader.read(8)
            writer.close()
        await server.stop()
    assert server.stats()["handler_errors"] == 2 * len(mistakes) - 2  # the last one ends its session
    assert caplog.text.count("password=***") >= 3
    for record in caplog.records:
        everything = logging.Formatter("%(message)s").format(record) + str(vars(record))
        assert SECRET not in everything, record.getMessage()


def session_of(server):
    return next(iter(server.sessions))


async def test_a_client_reports_what_was_left_out_when_it_ends(net, caplog):
    server = await net.server()
    server.on(1)(lambda session, packet: session.send_frame(wire(5) * 50))
    client = await net.connect(server)
    client.dispatch.register(5, lambda session, packet: 1 / 0)
    with caplog.at_level(logging.DEBUG, "gamenet.client"):
        client.send(1)
        while client._ledger.handler_errors < 50:
            await asyncio.sleep(0.001)
        await client.close()
    (summary,) = [record for record in caplog.records if record.getMessage().startswith("left out")]
    assert summary.name == "gamenet.client"
