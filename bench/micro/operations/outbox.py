"""What is sent, gathered and taken."""

from types import ModuleType

from bench.micro.traffic import BODY_SIZE, HEADER, MOVE_ID
from bench.micro.workload import Run, Workload, Yardstick

PACKETS = 1000
BODY = bytes(range(BODY_SIZE))


def gather(twin: ModuleType) -> Run:
    """`append()` for each packet, one `take()`."""
    outbox = twin.Outbox()
    append = outbox.append

    def run() -> object:
        for sequence in range(PACKETS):
            append(MOVE_ID, BODY, sequence)
        return outbox.take()

    return run


def gather_by_hand() -> Run:
    """A list of headers and bodies, joined."""
    pack, out = HEADER.pack, list[bytes]()

    def run() -> object:
        for sequence in range(PACKETS):
            out.append(pack(MOVE_ID, HEADER.size + len(BODY), sequence))
            out.append(BODY)
        joined = b"".join(out)
        out.clear()
        return [joined]

    return run


def gathered(twin: ModuleType) -> bytes:
    """All bytes, in whatever chunks."""
    return _joined(gather(twin))


def gathered_by_hand() -> bytes:
    """All bytes."""
    return _joined(gather_by_hand())


def _joined(run: Run) -> bytes:
    chunks = run()
    assert isinstance(chunks, list)
    return b"".join(chunks)


WORKLOADS = [
    Workload(
        "gather_packets", "Outbox.append() 1,000 times, take()", "packet", PACKETS, gather, gathered,
        beside=(Yardstick("struct, list and join", gather_by_hand, gathered_by_hand),),
    ),
]
