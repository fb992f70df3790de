"""The relay does to a stream what its mode says; else the other files here prove less than they seem to."""

import asyncio


async def test_segments(gamenet, net, relay, until):
    server = await net.server(layout=gamenet.HeaderLayout((), frame_size=1))  # a batch is then what one chunk brought
    chunks = []

    @server.on_batch(0)
    def keep(session, batch):
        chunks.append(len(batch))
        batch.reply()

    reader, writer = await asyncio.open_connection("127.0.0.1", await relay(server.port))
    for _ in range(20):
        writer.write(bytes(10))
        await asyncio.sleep(0)  # the relay may read now
    assert await reader.readexactly(200) == bytes(200)
    expected = {"one byte at a time": [1] * 200, "glued": [200]}
    assert chunks == expected.get(relay.mode, chunks)
    writer.close()
    await until(lambda: not server.sessions)


async def test_the_end_of_one_side_reaches_the_other(gamenet, net, relay):
    server = await net.server(layout=gamenet.LINES)

    @server.on(0)
    def answer(session, packet):
        session.reply(packet)
        if packet.body == b"quit":
            session.close()

    for line in (b"quit\r\n", b"hello\r\n"):
        reader, writer = await asyncio.open_connection("127.0.0.1", await relay(server.port))
        writer.write(line)
        writer.write_eof()
        assert await reader.read() == line
        writer.close()
