"""What a type checker sees of a packet class (PEP 681). Checked by mypy, never run."""

from typing import assert_type

from gamenet import Batch, Packet, Server, Session, char, f32, raw, u16


class Everything(Packet, id=1):
    hp: u16
    x: f32
    is_alive: bool
    name: str = char(32)
    token: bytes = raw(16, secret=True)
    level: u16 = 1


packet = Everything(10, 1.5, True, name="a", token=b"b")
assert_type(packet.hp, int)
assert_type(packet.x, float)
assert_type(packet.is_alive, bool)
assert_type(packet.name, str)
assert_type(packet.token, bytes)
assert_type(packet.level, int)
assert_type(packet.packet_id, int)
assert_type(packet.body, bytes)
assert_type(packet.view(), memoryview)
assert_type(Everything.unpack(b""), Everything)

Everything(hp="10", x=1.5, is_alive=True, name="a", token=b"b")  # type: ignore[arg-type]
Everything(hp=10)  # type: ignore[call-arg]
packet.name = 3  # type: ignore[assignment]

server = Server(idle_timeout=None)
Server(idle_timout=None)  # type: ignore[call-arg]
Server(idle_timeout="30")  # type: ignore[arg-type]


@server.on_batch(Everything)
def batch_handler(session: Session, batch: Batch[Everything]) -> None:
    assert_type(batch[0], Everything)
    assert_type([packet.hp for packet in batch], list[int])
    assert_type(batch.reply(), bool)
    assert_type(batch.column("hp"), memoryview)


@server.on(Everything)
async def handler(session: Session, received: Everything) -> None:
    assert_type(session.send(received), bool)
    assert_type(session.reply(received, Everything(1, 2.0, False, "n", b"t")), bool)
    assert_type(server.sessions.broadcast(received), int)
    assert_type(server.sessions.room("arena").broadcast(1002, b"body", 7, exclude=session), int)
