# cython: freethreading_compatible=True
"""One epoll set for all plain-TCP sessions of a server on Linux, nested in the loop that runs.

The loop watches the set as one file descriptor. One wake-up serves every socket that is ready: receive, parse,
dispatch and send, without a Python frame in between. What stays true: a transport does all that asyncio's does, in
the same order; one whose address epoll knows is alive, since what ends it runs in a later turn of the loop.
Locking rule: the thread of the loop only.
"""

from collections import deque

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport (
    PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE,
)
from libc.errno cimport EAGAIN, EINTR, errno
from posix.unistd cimport close as close_descriptor

import os
import socket
import warnings
from asyncio import BufferedProtocol
from asyncio.trsock import TransportSocket

cdef extern from "<sys/socket.h>":
    enum:
        MSG_NOSIGNAL
    struct iovec:
        void* iov_base
        size_t iov_len
    struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
    Py_ssize_t recv(int fd, void* buffer, size_t size, int flags)
    Py_ssize_t send(int fd, const void* data, size_t size, int flags)
    Py_ssize_t sendmsg(int fd, const msghdr* message, int flags)

cdef extern from "<string.h>":
    void* memset(void* memory, int value, size_t size)

cdef enum:
    READ_SIZE = 65536  # bytes of one session per wake-up: what comes behind waits until all others had their turn
    MAX_PIECES = 64  # of a backlog in one system call
    DEFAULT_HIGH_WATER = 65536  # bytes, as asyncio's


cdef uint32_t EDGES = EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLRDHUP | EPOLLET
# Edge-triggered: a socket is told of when something changes, and epoll need not ask it again at every wait.

cdef uint32_t MORE_BEHIND = EPOLLPRI | EPOLLRDHUP | EPOLLERR | EPOLLHUP
# With these a read ends early though the socket is not empty: before urgent data, the peer's end, or an error.

cdef tuple STOP_THE_LOOP = (SystemExit, KeyboardInterrupt)
# Whatever else a protocol raises is its connection's, as with asyncio.


cdef object os_error():
    cdef int number = errno
    return OSError(number, os.strerror(number))


cdef class Poller:
    """The epoll set of one server on one loop. Locking rule: the thread of the loop only."""

    def __cinit__(self):
        self.fd = -1

    def __init__(self, loop):
        self.loop = loop
        self.transports = set()
        self.finished = loop.create_future()
        self.fd = epoll_create1(EPOLL_CLOEXEC)
        if self.fd < 0:
            raise os_error()
        loop.add_reader(self.fd, self.wake)

    def __dealloc__(self):
        if self.fd >= 0:
            close_descriptor(self.fd)

    def __len__(self):
        return len(self.transports)

    def connect(self, sock, peername, protocol):
        """A transport for an accepted, non-blocking socket: calls `connection_made()`, and reads from then on."""
        cdef EpollTransport transport = EpollTransport(self, sock, peername, protocol)
        self.transports.add(transport)
        try:
            protocol.connection_made(transport)
        except STOP_THE_LOOP:
            raise
        except BaseException as error:
            transport.fail(error, "connection_made() failed")
        finally:
            if not transport.is_lost:
                transport.start_watching()
        return transport

    def finish(self):
        """Nobody new will come: the set is closed with its last transport, and `finished` is done then."""
        self.is_finishing = True
        if not self.transports:
            self.close()

    def wake(self):
        """Called by the loop: serve the sockets that are ready, each once.

        A handler may run the loop itself, or leave by a KeyboardInterrupt: whoever comes next goes on with the rest,
        for what epoll has told it does not tell again.
        """
        cdef EpollTransport transport
        cdef epoll_event event
        self.now = self.loop.time()
        if self.next_event == self.events_end:
            self.next_event = 0
            self.events_end = max(0, epoll_wait(self.fd, self.events, MAX_EVENTS, 0))
        try:
            while self.next_event < self.events_end:
                event = self.events[self.next_event]
                self.next_event += 1
                if event.data.ptr is not NULL:
                    transport = <EpollTransport>event.data.ptr
                    self.serve(transport, event.events)
        finally:
            if self.next_event < self.events_end:
                self.loop.call_soon(self.wake)

    cdef int serve(self, EpollTransport transport, uint32_t events) except -1:
        try:
            transport.ready(events)
        except STOP_THE_LOOP:
            transport.look_again()
            raise
        except BaseException as error:
            transport.fail(error, "protocol or transport failed")
        return 0

    cdef int control(self, int operation, EpollTransport transport) except -1:
        cdef epoll_event event
        event.events = EDGES
        event.data.ptr = <void*>transport
        if epoll_ctl(self.fd, operation, transport.fd, &event):
            raise os_error()
        transport.is_watched = operation != EPOLL_CTL_DEL
        return 0

    cdef int forget(self, EpollTransport transport) except -1:
        cdef int index
        for index in range(self.next_event, self.events_end):  # if a handler runs the loop itself
            if self.events[index].data.ptr == <void*>transport:
                self.events[index].data.ptr = NULL
        self.transports.discard(transport)
        if self.is_finishing and not self.transports:
            self.close()
        return 0

    cdef int close(self) except -1:
        if self.fd < 0:
            return 0
        self.loop.remove_reader(self.fd)
        close_descriptor(self.fd)
        self.fd = -1
        if not self.finished.done():
            self.finished.set_result(None)
        return 0


cdef class EpollTransport(DirectTransport):
    """A connection, with the methods of `asyncio.Transport`. Locking rule: the thread of the loop only."""

    def __init__(self, Poller poller not None, sock, peername, protocol):
        self.poller = poller
        self.sock = sock
        self.fd = sock.fileno()
        self.peername = peername
        self.set_protocol(protocol)
        self.set_write_buffer_limits()

    def __repr__(self):
        state = "lost" if self.is_lost else "closing" if self.is_ending else "open"
        return f"<EpollTransport {self.peername} {state}, {self.backlog_size} bytes unsent>"

    def __del__(self):
        if self.sock is not None and self.sock.fileno() >= 0:
            warnings.warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
            self.sock.close()

    # -- what it is

    def get_extra_info(self, name, default=None):
        """The connection's "socket", "sockname" or "peername"."""
        if name == "peername":
            return self.peername
        if name == "socket":
            return TransportSocket(self.sock)
        if name == "sockname" and self.sock.fileno() >= 0:
            return self.sock.getsockname()
        return default

    def set_protocol(self, protocol):
        """Who is told of what arrives, from now on."""
        self.protocol = protocol
        self.stream = protocol if isinstance(protocol, Stream) and (<Stream>protocol).receiver is not None else None
        self.has_own_buffer = isinstance(protocol, BufferedProtocol)

    def get_protocol(self):
        """Who is told of what arrives."""
        return self.protocol

    def is_closing(self):
        """Whether it is closed, or about to be."""
        return self.is_ending

    # -- reading

    def is_reading(self):
        """Whether what arrives is read."""
        return not self.is_reading_paused and not self.is_ending

    def pause_reading(self):
        """Leave what arrives in the socket until `resume_reading()`."""
        self.is_reading_paused = True

    def resume_reading(self):
        """Read again."""
        if self.is_reading_paused:
            self.is_reading_paused = False
            self.look_again()

    # -- writing

    def write(self, data):
        """Send bytes; what the socket does not take is copied and follows."""
        cdef Py_buffer view
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if self.has_written_eof:
            raise RuntimeError("Cannot call write() after write_eof()")
        if PyBytes_CheckExact(data):
            self.write_bytes(<bytes>data)
            return
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            self.write_memory(<const uint8_t*>view.buf, view.len)
        finally:
            PyBuffer_Release(&view)

    def writelines(self, list_of_data):
        """Send them one behind the other."""
        self.write(b"".join(list_of_data))

    def can_write_eof(self):
        """It can."""
        return True

    def write_eof(self):
        """Send what is left, then the end of our stream; reading goes on."""
        if self.is_ending or self.has_written_eof:
            return
        self.has_written_eof = True
        if not self.backlog_size:
            self.shut_down()

    def get_write_buffer_size(self):
        """Bytes that the socket did not take yet."""
        return self.backlog_size

    def get_write_buffer_limits(self):
        """Low and high watermark, in bytes."""
        return self.low_water, self.high_water

    def set_write_buffer_limits(self, high=None, low=None):
        """Above `high` bytes (default: 64 KiB) the protocol is told to pause, at `low` (a quarter) to resume."""
        if high is None:
            high = DEFAULT_HIGH_WATER if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self.high_water = high
        self.low_water = low
        self.pause_above_limit()

    # -- ending

    def close(self):
        """Read nothing more, send what is left, then end."""
        if self.is_ending:
            return
        self.is_ending = True
        if not self.backlog_size:
            self.end_soon(None)

    def abort(self):
        """End now; what was not sent is lost."""
        self.end_soon(None)

    def _end(self, error):
        """The connection is over: called by the loop, in a turn of its own."""
        protocol = self.protocol
        self.protocol = self.stream = None
        try:
            protocol.connection_lost(error)
        finally:
            self.sock.close()
            self.poller.forget(self)

    # -- told by the poller

    cdef int ready(self, uint32_t events) except -1:
        if self.is_lost:  # by what came before it in this turn
            return 0
        if events & (EPOLLIN | EPOLLERR | EPOLLHUP) and not (
            self.is_reading_paused or self.is_ending or self.has_read_eof
        ):
            self.read(events & MORE_BEHIND != 0)
        # after reading: a peer that is gone may have left bytes, and a failing send ends the connection
        if self.backlog_size and events & (EPOLLOUT | EPOLLERR | EPOLLHUP):
            self.send_backlog()
        return 0

    cdef int start_watching(self) except -1:
        try:
            self.poller.control(EPOLL_CTL_ADD, self)
        except OSError as error:
            self.fail(error, "epoll does not take the socket")
        return 0

    cdef int look_again(self) except -1:
        """Have epoll tell what it would tell now: a change that was told already is not told again by itself."""
        if self.is_watched:
            self.poller.control(EPOLL_CTL_MOD, self)
        return 0

    cdef int read(self, bint is_more_behind) except -1:
        """Receive once. Less than asked for means that the socket is empty, unless something lies behind."""
        cdef Stream stream = self.stream  # it may be replaced, and let go, while it is called
        cdef Py_ssize_t size, room
        if stream is None:
            return self.read_for_protocol()
        room = min(READ_SIZE, stream.receiver.pool.block_size)
        size = recv(self.fd, stream.receiver.memory(), room, 0)
        if size > 0:
            if size == room or is_more_behind:
                self.look_again()
            stream.received(size, self.poller.now)
        elif size == 0:
            self.read_eof()
        elif self.goes_on("cannot read"):
            self.look_again()
        return 0

    cdef int read_for_protocol(self) except -1:
        """As `read` for a protocol that is no stream."""
        cdef bint has_own_buffer = self.has_own_buffer
        try:
            if has_own_buffer:
                buffer = self.protocol.get_buffer(-1)
                if not len(buffer):
                    raise RuntimeError("get_buffer() returned an empty buffer")
                data = self.sock.recv_into(buffer)
            else:
                data = self.sock.recv(READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return 0
        if not data:
            return self.read_eof()
        self.look_again()
        if has_own_buffer:
            self.protocol.buffer_updated(data)
        else:
            self.protocol.data_received(data)
        return 0

    cdef int read_eof(self) except -1:
        self.has_read_eof = True
        if not self.protocol.eof_received():
            self.close()
        return 0

    # -- sending

    cdef int write_memory(self, const uint8_t* data, Py_ssize_t size) except -1:
        cdef Py_ssize_t sent = self.try_send(data, size)
        if sent < size and not self.is_lost:
            self.keep(PyBytes_FromStringAndSize(<const char*>data + sent, size - sent))
        return 0

    cdef int write_bytes(self, bytes data) except -1:
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        cdef Py_ssize_t sent = self.try_send(<const uint8_t*>PyBytes_AS_STRING(data), size)
        if sent < size and not self.is_lost:
            if sent:
                self.sent_of_first = sent
            self.keep(data)
        return 0

    cdef int write_chunks(self, list chunks) except -1:
        cdef bint is_first = not self.backlog_size
        cdef bytes data
        if self.is_lost:
            return 0
        for data in chunks:
            if data:
                self.append(data)
                self.backlog_size += PyBytes_GET_SIZE(data)
        if is_first:
            self.send_backlog()
        return self.pause_above_limit()

    cdef Py_ssize_t try_send(self, const uint8_t* data, Py_ssize_t size) except -1:
        """How many bytes the socket took: none while older ones wait, or after a failure."""
        cdef Py_ssize_t sent = -1
        if self.backlog_size or self.is_lost or not size:
            return 0
        while sent < 0:
            sent = send(self.fd, data, size, MSG_NOSIGNAL)
            if sent < 0 and not self.goes_on("cannot write"):
                return 0
        return sent

    cdef int keep(self, bytes data) except -1:
        self.append(data)
        self.backlog_size += PyBytes_GET_SIZE(data) - (self.sent_of_first if len(self.backlog) == 1 else 0)
        return self.pause_above_limit()

    cdef int append(self, bytes data) except -1:
        if self.backlog is None:
            self.backlog = deque()
        self.backlog.append(data)
        return 0

    cdef int pause_above_limit(self) except -1:
        if self.backlog_size > self.high_water and not self.is_protocol_paused:
            self.is_protocol_paused = True
            try:
                self.protocol.pause_writing()
            except STOP_THE_LOOP:
                raise
            except BaseException as error:
                self.report(error, "protocol.pause_writing() failed")
        return 0

    cdef int resume_below_limit(self) except -1:
        if self.backlog_size <= self.low_water and self.is_protocol_paused and not self.is_lost:
            self.is_protocol_paused = False
            try:
                self.protocol.resume_writing()
            except STOP_THE_LOOP:
                raise
            except BaseException as error:
                self.report(error, "protocol.resume_writing() failed")
        return 0

    cdef int send_backlog(self) except -1:
        # until the socket refuses: epoll tells of room only after that
        while self.backlog_size and self.send_pieces():
            pass
        try:
            self.resume_below_limit()
        finally:
            if not self.backlog_size and not self.is_lost:
                if self.is_ending:
                    self.end_soon(None)
                elif self.has_written_eof:
                    self.shut_down()
        return 0

    cdef int shut_down(self) except -1:
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.fail(error, "cannot end the stream")
        return 0

    cdef bint send_pieces(self) except -1:
        """Send the oldest of the backlog; False if the socket took less, or failed."""
        cdef iovec pieces[MAX_PIECES]
        cdef msghdr message
        cdef Py_ssize_t sent, size = 0, skipped = self.sent_of_first
        cdef size_t count = 0
        cdef bytes data
        for data in self.backlog:
            if count == MAX_PIECES:
                break
            pieces[count].iov_base = PyBytes_AS_STRING(data) + skipped
            pieces[count].iov_len = PyBytes_GET_SIZE(data) - skipped
            size += PyBytes_GET_SIZE(data) - skipped
            count += 1
            skipped = 0
        memset(&message, 0, sizeof(message))
        message.msg_iov = pieces
        message.msg_iovlen = count
        sent = sendmsg(self.fd, &message, MSG_NOSIGNAL)
        if sent < 0:
            return self.goes_on("cannot write")
        self.drop_sent(sent)
        return sent == size

    cdef int drop_sent(self, Py_ssize_t sent) except -1:
        cdef Py_ssize_t left
        self.backlog_size -= sent
        while sent:
            left = PyBytes_GET_SIZE(self.backlog[0]) - self.sent_of_first
            if sent < left:
                self.sent_of_first += sent
                return 0
            self.backlog.popleft()
            self.sent_of_first = 0
            sent -= left
        if not self.backlog_size:
            self.backlog = None
        return 0

    # -- failing

    cdef bint goes_on(self, message) except -1:
        """After a system call that gave -1: True if it was only interrupted, False if it must wait or failed."""
        if errno == EINTR:
            return True
        if errno != EAGAIN:
            self.fail(os_error(), message)
        return False

    cdef int report(self, error, message) except -1:
        context = {"message": message, "exception": error, "transport": self, "protocol": self.protocol}
        self.poller.loop.call_exception_handler(context)
        return 0

    cdef int fail(self, error, message) except -1:
        """End because of `error`; one that is not the network's is reported, as asyncio does."""
        try:
            if not isinstance(error, OSError):
                self.report(error, message)
        finally:
            self.end_soon(error)
        return 0

    cdef int end_soon(self, error) except -1:
        if self.is_lost:
            return 0
        self.is_lost = self.is_ending = True
        self.backlog = None
        self.backlog_size = self.sent_of_first = 0
        try:
            if self.is_watched:
                self.poller.control(EPOLL_CTL_DEL, self)
        except OSError:
            self.is_watched = False  # somebody closed the descriptor, so epoll knows it no more
        self.poller.loop.call_soon(self._end, error)
        return 0
