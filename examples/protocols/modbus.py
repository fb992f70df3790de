"""A Modbus/TCP device of 1,000 holding registers, to read and to write.

Run it: python modbus.py
The protocol: https://www.modbus.org/docs/Modbus_Application_Protocol_V1_1b3.pdf, and Messaging on TCP/IP V1.0b.
"""

import struct

import gamenet
from gamenet import u8, u16

LAYOUT = gamenet.HeaderLayout(
    (
        gamenet.HeaderField("sequence", 2, "big"),
        gamenet.HeaderField("protocol", 2, "big"),
        gamenet.HeaderField("packet_size", 2, "big"),
        gamenet.HeaderField("unit", 1),  # as `protocol`, an answer carries the request's
        gamenet.HeaderField("packet_id", 1),  # the function
    ),
    size_counts="after",
    max_packet_size=260,
)


class ReadRegisters(gamenet.Packet, id=3, byte_order="big"):
    address: u16
    count: u16


class WriteRegister(gamenet.Packet, id=6, byte_order="big"):
    address: u16
    value: u16


class WriteRegisters(gamenet.Packet, id=16, byte_order="big"):
    address: u16
    count: u16
    size: u8  # of the values behind it, in bytes


MOST_READ, MOST_WRITTEN = 125, 123
ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, ILLEGAL_VALUE = 1, 2, 3

server = gamenet.Server(layout=LAYOUT, idle_timeout=60.0)
registers = [0] * 1000


@server.on(ReadRegisters)
def read_registers(session: gamenet.Session, packet: ReadRegisters) -> None:
    address, count = packet.address, packet.count
    if not 1 <= count <= MOST_READ:
        return refuse(session, packet, ILLEGAL_VALUE)
    if address + count > len(registers):
        return refuse(session, packet, ILLEGAL_ADDRESS)
    values = struct.pack(f">{count}H", *registers[address : address + count])
    session.reply(packet, gamenet.RawPacket(packet.packet_id, bytes((len(values),)) + values))


@server.on(WriteRegister)
def write_register(session: gamenet.Session, packet: WriteRegister) -> None:
    if packet.address >= len(registers):
        return refuse(session, packet, ILLEGAL_ADDRESS)
    registers[packet.address] = packet.value
    session.reply(packet)


@server.on(WriteRegisters)
def write_registers(session: gamenet.Session, packet: WriteRegisters) -> None:
    address, count, values = packet.address, packet.count, packet.body[WriteRegisters.body_size_of() :]
    if not 1 <= count <= MOST_WRITTEN or not len(values) == packet.size == 2 * count:
        return refuse(session, packet, ILLEGAL_VALUE)
    if address + count > len(registers):
        return refuse(session, packet, ILLEGAL_ADDRESS)
    registers[address : address + count] = struct.unpack(f">{count}H", values)
    session.reply(packet, gamenet.RawPacket(packet.packet_id, packet.body[:4]))


@server.dispatch.set_default
def unknown_function(session: gamenet.Session, packet: gamenet.RawPacket) -> None:
    refuse(session, packet, ILLEGAL_FUNCTION)


def refuse(session: gamenet.Session, packet: gamenet.RawPacket, code: int) -> None:
    session.reply(packet, gamenet.RawPacket(packet.packet_id | 0x80, bytes((code,))))


if __name__ == "__main__":
    gamenet.run(server, port=5020)
