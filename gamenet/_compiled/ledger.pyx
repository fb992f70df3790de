# cython: freethreading_compatible=True
"""The ledger: the compiled twin of `gamenet._pure.ledger`.

What stays true between two chunks: bytes_in = bytes_dispatched + bytes_rejected + bytes_discarded + what the
sessions still buffer. Locking rule: written by the loop's thread only; a reader elsewhere may see it mid-chunk.
"""


cdef class Ledger:
    """Counters of one server or client. Written by the streams, read by `stats()`.

    `pumping` is the `id()` of the stream whose packets are handled right now (0: none's), `packet_id` that of the
    packet: numbers and no references, so that a watchdog may read them in another thread. Locking rule: written by
    the loop's thread only.
    """
