from libc.stdint cimport uint8_t, uint32_t

from gamenet._compiled.stream cimport DirectTransport, Stream


cdef extern from "<sys/epoll.h>":
    enum:
        EPOLL_CLOEXEC
        EPOLL_CTL_ADD
        EPOLL_CTL_MOD
        EPOLL_CTL_DEL
        EPOLLIN
        EPOLLOUT
        EPOLLPRI
        EPOLLERR
        EPOLLHUP
        EPOLLRDHUP
        EPOLLET
    ctypedef union epoll_data_t:
        void* ptr
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epoll_fd, int operation, int fd, epoll_event* event)
    int epoll_wait(int epoll_fd, epoll_event* events, int room, int milliseconds)


cdef enum:
    MAX_EVENTS = 256  # sockets served per wake-up before the loop's other work gets its turn


cdef class Poller:
    cdef object loop
    cdef int fd  # of the epoll set; -1 once it is closed
    cdef set transports  # those whose connection is not lost; owns them while epoll knows their addresses
    cdef bint is_finishing  # nobody new comes
    cdef readonly object finished  # a future: done when nobody new comes and the last transport is gone
    cdef double now  # the loop's time at this wake-up, in seconds
    cdef epoll_event events[MAX_EVENTS]  # those from `next_event` to `events_end` are not served yet
    cdef int next_event
    cdef int events_end

    cdef int serve(self, EpollTransport transport, uint32_t events) except -1
    cdef int control(self, int operation, EpollTransport transport) except -1
    cdef int forget(self, EpollTransport transport) except -1
    cdef int close(self) except -1


cdef class EpollTransport(DirectTransport):
    cdef Poller poller
    cdef object sock
    cdef int fd  # of `sock`
    cdef object peername
    cdef object protocol  # None once its connection_lost() was called
    cdef Stream stream  # the protocol, if it brings a receiver to read into; else None
    cdef bint has_own_buffer  # the protocol is an asyncio.BufferedProtocol
    cdef object backlog  # deque of bytes that the socket did not take yet; None while there are none
    cdef Py_ssize_t backlog_size  # their unsent bytes
    cdef Py_ssize_t sent_of_first  # bytes of the oldest that are sent already
    cdef Py_ssize_t high_water
    cdef Py_ssize_t low_water
    cdef bint is_reading_paused
    cdef bint is_protocol_paused  # it was told to pause writing
    cdef bint has_read_eof
    cdef bint has_written_eof
    cdef bint is_watched  # epoll knows the socket
    cdef bint is_ending  # close() or abort() was called
    cdef bint is_lost  # connection_lost() is due, or done: nothing is sent any more

    cdef int ready(self, uint32_t events) except -1
    cdef int start_watching(self) except -1
    cdef int look_again(self) except -1
    cdef int read(self, bint is_more_behind) except -1
    cdef int read_for_protocol(self) except -1
    cdef int read_eof(self) except -1
    cdef Py_ssize_t try_send(self, const uint8_t* data, Py_ssize_t size) except -1
    cdef int send_backlog(self) except -1
    cdef bint send_pieces(self) except -1
    cdef int keep(self, bytes data) except -1
    cdef int append(self, bytes data) except -1
    cdef int pause_above_limit(self) except -1
    cdef int resume_below_limit(self) except -1
    cdef int shut_down(self) except -1
    cdef int drop_sent(self, Py_ssize_t sent) except -1
    cdef bint goes_on(self, message) except -1
    cdef int report(self, error, message) except -1
    cdef int fail(self, error, message) except -1
    cdef int end_soon(self, error) except -1
