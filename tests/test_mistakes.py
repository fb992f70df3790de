"""What a user writes wrongly: it is refused where it stands, and the text says what was given and what is wanted."""

import asyncio
import dataclasses
import inspect
import socket
import ssl
import sys
import typing
from concurrent.futures import ThreadPoolExecutor

import pytest


def refused(error, call):
    with pytest.raises(error) as caught:
        call()
    return str(caught.value)


# -- keywords and limits


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"idle_timout": 3.0}, "Server() has no keyword 'idle_timout'; did you mean 'idle_timeout'?"),
        ({"sesion_data": None}, "Server() has no keyword 'sesion_data'; did you mean 'session_data'?"),
        ({"colour": "red"}, "Server() has no keyword 'colour'"),
        ({"idle_timeout": "3"}, "idle_timeout must be a number, got str"),
        ({"rate_burst": "3"}, "rate_burst must be a number, got str"),
        ({"max_packet_size": 100.5}, "max_packet_size must be an int, got float"),
        ({"max_sessions": None}, "max_sessions must be an int, got NoneType"),
        ({"ssl": True}, "ssl must be an ssl.SSLContext, got bool"),
        ({"ssl": "cert.pem"}, "ssl must be an ssl.SSLContext, got str"),
        ({"layout": "book"}, "layout must be a HeaderLayout or DelimiterLayout, got str"),
        ({"layout": None}, "layout must be a HeaderLayout or DelimiterLayout, got NoneType"),
    ],
)
def test_a_servers_keywords(gamenet, options, text):
    assert refused(TypeError, lambda: gamenet.Server(**options)) == text


def test_limits_take_every_kind_of_number(gamenet):
    fractions = pytest.importorskip("fractions")
    server = gamenet.Server(idle_timeout=fractions.Fraction(1, 2), close_timeout=1, max_packets_per_second=10)
    assert server.limits.idle_timeout == 0.5


def test_a_clients_context_is_no_servers(gamenet):
    context = ssl.create_default_context()
    assert refused(ValueError, lambda: gamenet.Server(ssl=context)).startswith("ssl is a client's context; ")
    assert gamenet.Server(ssl=ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)).ssl is not None


def test_type_checkers_know_every_limit(gamenet):
    from gamenet.limits import LimitOptions

    declared = {field.name: field.type for field in dataclasses.fields(gamenet.Limits)}
    options = LimitOptions.__annotations__
    assert {name: option.__forward_arg__ for name, option in options.items()} == declared
    for call in gamenet.Server, gamenet.connect, gamenet.ReconnectingClient:
        limits = inspect.signature(call, eval_str=False).parameters["limits"]
        assert limits.annotation == "Unpack[LimitOptions]"
        assert not typing.get_type_hints(LimitOptions).keys() & (inspect.signature(call).parameters.keys() - {"limits"})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"connect_timout": 1.0}, "connect() has no keyword 'connect_timout'; did you mean 'connect_timeout'?"),
        ({"connect_timeout": "1"}, "connect_timeout must be a number, got str"),
        ({"packets": [5]}, "packets must be a list of packet classes, got int"),
        ({"layout": 5}, "layout must be a HeaderLayout or DelimiterLayout, got int"),
        ({"port": "9000"}, "port must be an int, got str"),
        ({"ssl": "ca.pem"}, "ssl must be an ssl.SSLContext, got str"),
    ],
)
async def test_a_clients_keywords(gamenet, options, text):
    with pytest.raises(TypeError) as caught:
        async with gamenet.connect(**{"host": "127.0.0.1", "port": 1, **options}):
            pass
    assert str(caught.value) == text
    with pytest.raises(TypeError) as caught:
        gamenet.ReconnectingClient(**{"host": "127.0.0.1", "port": 1, **options})
    assert str(caught.value) == text.replace("connect()", "ReconnectingClient()")


async def test_packets_of_a_client_are_a_list(gamenet):
    class Chat(gamenet.Packet, id=1):
        message: str = gamenet.char(8)

    for packets, got in ((Chat, "the class Chat"), ([Chat(message="x")], "Chat")):
        with pytest.raises(TypeError, match=f"packets must be a list of packet classes, got {got}"):
            async with gamenet.connect("127.0.0.1", 1, packets=packets):
                pass


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"backoff": 3}, "backoff must be a Backoff or an iterable of seconds, got int"),
        ({"greet": 3}, "greet must be callable, got int"),
        ({"on_state": 3}, "on_state must be callable, got int"),
    ],
)
async def test_what_a_reconnecting_client_would_trip_over_later(gamenet, options, text):
    assert refused(TypeError, lambda: gamenet.ReconnectingClient("127.0.0.1", 1, **options)) == text


# -- addresses


@pytest.mark.parametrize(("port", "accepted"), [(-1, False), (0, True), (65535, True), (65536, False), (70000, False)])
async def test_ports(gamenet, port, accepted):
    from gamenet.transports.sockets import check_port

    if accepted:
        check_port(port)
        return
    text = f"port {port} is outside 0 to 65535"
    with pytest.raises(ValueError, match=text):
        await gamenet.Server().start("127.0.0.1", port)
    with pytest.raises(ValueError, match=text):
        async with gamenet.connect("127.0.0.1", port):
            pass
    with pytest.raises(ValueError, match=text):
        gamenet.ReconnectingClient("127.0.0.1", port)


async def test_a_port_in_use_is_named(net):
    server = await net.server()
    other = await net.server(start=False)
    with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1 port {server.port}: "):
        await other.start("127.0.0.1", server.port)


async def test_a_host_that_nobody_knows_is_named(gamenet, monkeypatch):
    async def fails(*arguments, **options):
        raise socket.gaierror(-2, "Name or service not known")

    loop = asyncio.get_running_loop()
    try:
        monkeypatch.setattr(loop, "getaddrinfo", fails)
    except AttributeError:
        pytest.skip("this loop's look-up cannot be replaced")
    with pytest.raises(socket.gaierror, match="cannot listen on nosuch.example port 9000: Name or service not known"):
        await gamenet.Server().start("nosuch.example", 9000)
    with pytest.raises(socket.gaierror, match="cannot look up 'nosuch.example': Name or service not known"):
        async with gamenet.connect("nosuch.example", 9000, transport="asyncio"):
            pass


# -- handlers and hooks


def test_what_a_handler_is_for(gamenet):
    class Chat(gamenet.Packet, id=1):
        message: str = gamenet.char(8)

    def handler(session, packet):
        pass

    server = gamenet.Server()
    for register in (
        server.on, server.on_batch, server.require_login, server.dispatch.unregister, server.dispatch.handler_of,
        lambda packet: server.when_slow(packet, "keep_latest"), lambda packet: gamenet.Heartbeat(packet, 2),
    ):
        for packet, got in (("chat", "str"), (handler, "function"), (Chat(message="x"), "Chat")):
            text = refused(TypeError, lambda: register(packet))  # noqa: B023
            assert text == f"packet must be a packet class or a packet id, got {got}"
    assert len(server.dispatch) == 0


def test_a_handler_that_would_never_run(gamenet):
    def yields(session, packet):
        yield

    async def yields_too(session, packet):
        yield

    server = gamenet.Server()
    for handler in yields, yields_too:
        for register in server.on(1), server.on_batch(1):
            text = refused(TypeError, lambda: register(handler))  # noqa: B023
            assert text == f"{handler.__name__} has a yield: nobody would iterate over what it returns"


@pytest.mark.parametrize("kind", ["on_opened", "on_closed", "on_away", "on_resumed"])
def test_hooks_are_plain_functions(gamenet, kind):
    async def greet(session):
        pass

    register = getattr(gamenet.Server(), kind)
    assert refused(TypeError, lambda: register(greet)) == "a hook must be a plain function, got async def greet"
    assert refused(TypeError, lambda: register(3)) == "a hook must be a plain function, got int"


async def test_what_a_session_takes(net):
    class Chat(net.gamenet.Packet, id=1):
        message: str = net.gamenet.char(8)

    server, errors = await net.server(), []

    @server.on(1)
    def handler(session, packet):
        for call in (
            lambda: session.send("hello"), lambda: session.send(Chat), lambda: session.send(1, b"", "7"),
            lambda: session.set_transform(3), lambda: session.set_transform(None, "x"),
            lambda: setattr(session, "layout", "lines"), lambda: setattr(session, "idle_timeout", "30"),
        ):
            errors.append(refused(TypeError, call))
        session.reply(packet)

    client = await net.connect(server)
    assert (await client.request(1, b"still here")).body == b"still here"
    assert errors == [
        "packet_id must be an int, got str",
        "packet_id must be an int, got the class Chat",
        "sequence must be an int, got str",
        "decode must be callable, got int",
        "encode must be callable, got str",
        "layout must be a HeaderLayout or DelimiterLayout, got str",
        "idle_timeout must be a number, got str",
    ]


async def test_a_client_that_does_not_ask_for_resume(net, caplog, until):
    if net.transport == "epoll":
        pytest.skip("the epoll transport knows sessions only")
    caplog.set_level("INFO", "gamenet")
    server = await net.server(resume=True)
    client = await net.connect(server)
    client.send(1, bytes(20))
    await client.wait_closed()
    await until(lambda: "sent no HELLO, as a client without resume does: " in caplog.text)


# -- running


def test_what_run_takes(gamenet):
    assert refused(TypeError, lambda: gamenet.run(9000)) == "server must be a gamenet.Server, got int"
    assert refused(TypeError, lambda: gamenet.run(gamenet.Server)).endswith("got the class Server")
    assert refused(TypeError, lambda: gamenet.run(gamenet.Server(), port="9000")) == "port must be an int, got str"


async def test_run_inside_a_loop(gamenet):
    text = refused(RuntimeError, lambda: gamenet.run(gamenet.Server()))
    assert text == "run() makes its own event loop; inside one that runs: await gamenet.serve(server, ...)"


def test_run_in_another_thread(gamenet):
    def serve(server):
        asyncio.run(gamenet.serve(server))

    for call in gamenet.run, serve:
        with ThreadPoolExecutor(1) as threads, pytest.raises(RuntimeError, match="signals reach the main thread only"):
            threads.submit(call, gamenet.Server()).result()


def test_what_is_not_installed_is_named(gamenet, monkeypatch):
    from gamenet.run import loop_factory
    from gamenet.transports import import_optional

    monkeypatch.setitem(sys.modules, "uvloop", None)  # as if it were not installed
    text = refused(ModuleNotFoundError, lambda: loop_factory("uvloop"))
    assert text == "loop 'uvloop' needs uvloop: pip install uvloop"
    text = refused(ModuleNotFoundError, lambda: import_optional("no_such_module", "transport 'fast'"))
    assert text == "transport 'fast' needs no_such_module: pip install no_such_module"


# -- declarations


def test_declarations(gamenet):
    def declare(namespace, annotations=None, **options):
        meta = type(gamenet.Packet)
        return refused(TypeError, lambda: meta("Chat", (gamenet.Packet,), {
            **namespace, "__annotations__": annotations or {}, "__module__": __name__,
        }, **options))

    missing = "has no annotation; write message: str = char(n), or message: u32"
    assert declare({"message": gamenet.char(8)}, id=1) == f"Chat.message {missing}"
    assert declare({"message": gamenet.u32}, id=1) == f"Chat.message {missing}"
    assert declare({"text": gamenet.char(8)}, {"text": gamenet.u8}, id=1) == (
        "Chat.text = char() or raw() is annotated as a number; annotate it with str or bytes"
    )
    assert declare({}, id="chat") == "Chat: id must be an int, got str"
    assert refused(TypeError, lambda: gamenet.char("8")) == "a field's size must be an int, got str"
    assert refused(TypeError, lambda: gamenet.HeaderField("packet_id", "2")) == (
        "header field 'packet_id' has a width of '2', not a number of bytes"
    )
    assert refused(
        TypeError, lambda: gamenet.HeaderLayout((gamenet.HeaderField("packet_size", 2),), trailer="\r\n")
    ) == "trailer must be bytes, got str"


@pytest.mark.parametrize(("number", "fits"), [(-1, False), (0, True), (2**64 - 1, True), (2**64, False)])
def test_packet_ids(gamenet, number, fits):
    def declare():
        class Chat(gamenet.Packet, id=number):
            pass

        return Chat

    if fits:
        assert declare().body_size_of() == 0
    else:
        assert refused(ValueError, declare) == f"Chat: id {number} is outside 0 to {2**64 - 1}"


def test_what_is_no_field_may_stand_in_a_packet_class(gamenet):
    class Chat(gamenet.Packet, id=1):
        LIMIT: typing.ClassVar[int] = 3
        WORDS = "any"
        message: str = gamenet.char(8)

        def shout(self):
            return self.message.upper()

    assert (Chat(message="a").shout(), Chat.LIMIT, Chat.WORDS) == ("A", 3, "any")
