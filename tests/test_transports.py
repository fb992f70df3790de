"""Which transports and which kind of session a server takes, and what it says when they are not there."""

import asyncio
import importlib.util
import sys

import pytest

from gamenet.session import BufferedSession, Session
from gamenet.transports import choose

HAS_AIOFASTNET = importlib.util.find_spec("aiofastnet") is not None


async def test_the_loops_own_transports_are_always_there():
    loop = asyncio.get_running_loop()
    chosen = choose("asyncio", loop)
    reads_by_itself = sys.platform == "win32" and isinstance(loop, asyncio.ProactorEventLoop)
    assert chosen.name == "asyncio"
    assert chosen.session_type is (Session if reads_by_itself else BufferedSession)


@pytest.mark.skipif(sys.platform == "win32", reason="asyncio's loop there reads by itself")
async def test_auto_takes_the_fast_ones_where_they_are_installed():
    assert choose("auto", asyncio.get_running_loop()).name == ("fast" if HAS_AIOFASTNET else "asyncio")


async def test_without_aiofastnet_auto_is_asyncio_and_fast_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "aiofastnet", None)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "aiofastnet" else find_spec(name))
    loop = asyncio.get_running_loop()
    assert choose("auto", loop).name == "asyncio"
    with pytest.raises((ModuleNotFoundError, RuntimeError), match="aiofastnet|Proactor"):
        choose("fast", loop)


async def test_other_names_are_refused():
    with pytest.raises(ValueError, match="transport is 'epoll', not"):
        choose("epoll", asyncio.get_running_loop())


async def test_a_view_kept_from_the_receive_buffer_is_never_read_over(net):
    server, kept = await net.server(), []

    @server.on(1)
    def handler(session, packet):
        kept.append((packet.sequence, packet.view()))
        session.reply(packet)

    client = await net.connect(server)
    for n in range(50):
        await client.request(1, bytes([n]) * 500)
    assert [bytes(view) for _, view in kept] == [bytes([n]) * 500 for n in range(50)]
