"""`examples/protocols/modbus.py` with pymodbus."""

import asyncio
import struct

import pytest

TIMEOUT = 20.0


@pytest.fixture
def pymodbus():
    return pytest.importorskip("pymodbus.client", reason="pymodbus is not installed")


@pytest.fixture
def use(pymodbus, serve, in_thread):
    """`await use(function)`: runs `function(client)` in a thread, with a blocking client. The example, as `Served`."""

    async def run(function):
        served = await serve("modbus")

        def connect_and_run():
            with pymodbus.ModbusTcpClient(served.host, port=served.port, timeout=TIMEOUT, retries=0) as client:
                function(client)

        await in_thread(connect_and_run)
        assert served.server.stats()["handler_errors"] == 0
        return served

    return run


async def test_registers_are_written_and_read(use):
    def write_and_read(client):
        assert client.read_holding_registers(0, count=3).registers == [0, 0, 0]
        assert not client.write_register(1, 0xBEEF).isError()
        written = client.write_registers(998, [1, 65535], device_id=7)
        assert (written.address, written.count, written.dev_id) == (998, 2, 7)
        assert client.read_holding_registers(0, count=3).registers == [0, 0xBEEF, 0]
        assert client.read_holding_registers(998, count=2, device_id=255).registers == [1, 65535]

    served = await use(write_and_read)
    assert served.module.registers[998:] == [1, 65535]


async def test_the_largest_requests(use):
    def write_and_read(client):
        assert not client.write_registers(100, list(range(123))).isError()
        assert client.read_holding_registers(100, count=125).registers == [*range(123), 0, 0]

    await use(write_and_read)


async def test_wrong_requests_are_answered_by_exceptions(use):
    def ask(client):
        answers = [
            client.read_holding_registers(1000, count=1),
            client.read_holding_registers(999, count=2),
            client.write_register(1000, 1),
            client.write_registers(999, [1, 2]),
            client.read_coils(0, count=1),
            client.read_input_registers(0, count=1),
        ]
        assert all(answer.isError() for answer in answers)
        assert [answer.exception_code for answer in answers] == [2, 2, 2, 2, 1, 1]
        assert client.read_holding_registers(999, count=1).registers == [0]

    await use(ask)


async def test_clients_share_the_registers(pymodbus, serve):
    served = await serve("modbus")
    clients = [
        pymodbus.AsyncModbusTcpClient(served.host, port=served.port, timeout=TIMEOUT, retries=0, reconnect_delay=0)
        for _ in range(3)
    ]
    try:
        assert all([await client.connect() for client in clients])
        await asyncio.gather(*(client.write_register(number, number) for number, client in enumerate(clients)))
        reads = await asyncio.gather(*(client.read_holding_registers(0, count=4) for client in 3 * clients))
        assert [read.registers for read in reads] == 9 * [[0, 1, 2, 0]]
    finally:
        for client in clients:
            client.close()


def request(number, function, body):
    return struct.pack(">HHHBB", number, 0, 2 + len(body), 9, function) + body


@pytest.mark.parametrize(
    ("function", "body"),
    [(3, b"\0\0\0\0"), (3, b"\0\0\0\x7e"), (16, b"\0\0\0\x01\x02\0"), (16, b"\0\0\0\x02\x02\0\0"), (16, b"\0\0\0\0\0")],
    ids=["none", "too many", "values missing", "wrong size", "nothing to write"],
)
async def test_illegal_values(send_bytes, function, body):
    server, answer = await send_bytes("modbus", request(5, function, body), then_end=True)
    assert answer == b"\0\x05" b"\0\0" b"\0\x03" b"\x09" + bytes((function | 0x80, 3))
    assert server.stats()["handler_errors"] == 0


async def test_a_body_too_short_is_refused(send_bytes):
    server, answer = await send_bytes("modbus", request(1, 3, b"\0\0\0"), then_end=True)
    assert answer == b""
    assert server.stats()["rejected"]["short"] == 1


@pytest.mark.parametrize("size", [0, 1, 255, 65535])
async def test_sizes_that_cannot_be_end_the_session(send_bytes, size):
    server, answer = await send_bytes("modbus", struct.pack(">HHHBB", 1, 0, size, 1, 3))
    assert answer == b""
    assert server.stats()["rejected"]["invalid"] == 1
