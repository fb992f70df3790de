"""The ledger: what went in, what became of it, what went out. Plain counters, never reset.

What stays true between two chunks: bytes_in = bytes_dispatched + bytes_rejected + bytes_discarded + what the
sessions still buffer.
"""


class Ledger:
    """Counters of one server or client. Written by the streams, read by `stats()`.

    `pumping` is the `id()` of the stream whose packets are handled right now (0: none's), `packet_id` that of the
    packet: numbers and no references, so that a watchdog may read them in another thread. Locking rule: written by
    the loop's thread only.
    """

    __slots__ = (
        "bytes_discarded",
        "bytes_dispatched",
        "bytes_in",
        "bytes_out",
        "bytes_rejected",
        "dropped_latest",
        "dropped_newest",
        "dropped_oldest",
        "handler_errors",
        "packet_id",
        "packets_discarded",
        "packets_dispatched",
        "packets_out",
        "pumping",
        "rate_waits",
        "rejected_invalid",
        "rejected_login",
        "rejected_rate",
        "rejected_short",
        "rejected_unknown",
        "sends_refused",
        "yields",
    )

    def __init__(self) -> None:
        self.bytes_in = 0
        self.bytes_dispatched = 0
        self.bytes_rejected = 0
        self.bytes_discarded = 0
        self.bytes_out = 0
        self.packets_dispatched = 0
        self.packets_discarded = 0
        self.packets_out = 0
        self.rejected_unknown = 0
        self.rejected_short = 0
        self.rejected_invalid = 0
        self.rejected_login = 0
        self.rejected_rate = 0
        self.handler_errors = 0
        self.sends_refused = 0
        self.dropped_oldest = 0
        self.dropped_newest = 0
        self.dropped_latest = 0
        self.yields = 0
        self.rate_waits = 0
        self.pumping = 0
        self.packet_id = 0
