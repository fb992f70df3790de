from libc.stdint cimport uint64_t


cdef class Ledger:
    cdef public uint64_t bytes_in
    cdef public uint64_t bytes_dispatched
    cdef public uint64_t bytes_rejected
    cdef public uint64_t bytes_discarded
    cdef public uint64_t bytes_out
    cdef public uint64_t packets_dispatched
    cdef public uint64_t packets_discarded
    cdef public uint64_t packets_out
    cdef public uint64_t rejected_unknown
    cdef public uint64_t rejected_short
    cdef public uint64_t rejected_invalid
    cdef public uint64_t rejected_login
    cdef public uint64_t rejected_rate
    cdef public uint64_t handler_errors
    cdef public uint64_t sends_refused
    cdef public uint64_t dropped_oldest  # packets that were sent and then left out for a slow receiver
    cdef public uint64_t dropped_newest
    cdef public uint64_t dropped_latest
    cdef public uint64_t yields  # times that a session's packets had to wait for another turn
    cdef public uint64_t rate_waits  # of them: for credit
    cdef public uint64_t pumping  # the address of the stream whose packets are handled now; 0: none's
    cdef public uint64_t packet_id  # of the packet handled now, while `pumping`
