"""A server without sockets, on a loop whose clock stands still until the test turns it."""

import asyncio
import threading
from contextlib import contextmanager


class FakeLoop(asyncio.SelectorEventLoop):
    """Timers fire in `pass_time()`, each at its very time."""

    def __init__(self):
        super().__init__()
        self.now = 1000.0
        self.complaints = []
        self.set_exception_handler(lambda loop, context: self.complaints.append(context))

    def time(self):
        return self.now

    def turn(self, times=5):
        """Run what is ready."""
        for _ in range(times):
            self.call_soon(self.stop)
            self.run_forever()

    def pass_time(self, seconds):
        """Let `seconds` pass."""
        end = self.now + seconds
        self.turn()
        while self._scheduled and self._scheduled[0]._when <= end:
            self.now = max(self.now, self._scheduled[0]._when)
            self.turn()
        self.now = end
        self.turn()

    def stand_still(self, seconds):
        """Let `seconds` pass in which the loop is held up."""
        self.now += seconds

    @contextmanager
    def running(self):
        """For what is called as the loop calls it: only there Python 3.12 starts an `async def` handler at once."""
        if self.is_running():
            yield
            return
        self._thread_id = threading.get_ident()
        asyncio._set_running_loop(self)
        try:
            yield
        finally:
            self._thread_id = None
            asyncio._set_running_loop(None)


class FakeListener:
    """A server's listener; `new_session()` is what it calls for each connection."""

    addresses = ()
    connecting = 0

    def __init__(self, host, port, new_session):
        self.new_session = new_session

    def start(self):
        pass

    def close(self):
        pass

    async def wait_closed(self):
        pass


class FakeTransport:
    """What a session sends is in `taken`; while `takes` is false it waits in `waiting`. With `is_tls` it says that it
    is one of TLS, where the peer's end is the end of both ways.
    """

    def __init__(self, loop, new_session, is_tls=False):
        self.loop = loop
        self.is_tls = is_tls
        self.taken = b""
        self.waiting = b""
        self.unread = b""
        self.takes = True
        self.fails = False
        self.is_reading = True
        self.is_paused = False
        self.is_lost = False
        self._is_closing = False
        self.protocol = new_session()
        with loop.running():
            self.protocol.connection_made(self)

    # -- the peer's side

    def arrive(self, data):
        self.unread += data
        self._deliver()

    def _deliver(self):
        if self.is_reading and self.unread and not self._is_closing:
            data, self.unread = self.unread, b""
            with self.loop.running():
                self.protocol.data_received(data)

    def take(self, size):
        """The peer takes `size` bytes of what waits."""
        self.taken += self.waiting[:size]
        self.waiting = self.waiting[size:]
        if self.is_paused and not self.waiting:
            self.is_paused = False
            self.protocol.resume_writing()
        if self._is_closing and not self.waiting:
            self._lose()

    def end(self, error=None):
        """The peer ends in order; over TLS the connection is then gone, with `error`."""
        if not self.protocol.eof_received() or self.is_tls:
            self._is_closing, self.waiting = True, b""
            self._lose(error)

    # -- the session's side

    def get_extra_info(self, name, default=None):
        known = {"peername": ("peer", 1), "sslcontext": self if self.is_tls else None}
        return known.get(name, default)

    def set_write_buffer_limits(self, high=None, low=None):
        assert (high, low) == (16_384 if self.is_tls else 1, 0)

    def get_write_buffer_size(self):
        return len(self.waiting)

    def write(self, data):
        if self.is_tls and self.is_lost:
            return  # as TLS drops what comes after the peer's farewell
        assert not self.is_lost
        if self.fails:
            raise RuntimeError("the socket is broken")
        if self.takes:
            self.taken += data
            return
        self.waiting += data
        if len(self.waiting) > 1 and not self.is_paused:
            self.is_paused = True
            self.protocol.pause_writing()

    def writelines(self, chunks):
        self.write(b"".join(chunks))

    def pause_reading(self):
        self.is_reading = False

    def resume_reading(self):
        self.is_reading = True
        self.loop.call_soon(self._deliver)

    def is_closing(self):
        return self._is_closing

    def close(self):
        self._is_closing = True
        if not self.waiting:
            self._lose()

    def abort(self):
        self._is_closing = True
        self.waiting = b""
        self._lose()

    def _lose(self, error=None):
        if not self.is_lost:
            self.is_lost = True
            self.loop.call_soon(self.protocol.connection_lost, error)


class FakeNet:
    """One server; `connect()` gives it a peer."""

    is_tls = False

    def __init__(self, gamenet, **options):
        self.gamenet = gamenet
        self.loop = FakeLoop()
        fake = gamenet.transports.Transports("fake", None, None, gamenet.Session, FakeListener)
        options.setdefault("watchdog_timeout", None)  # its thread knows another time
        self.server = gamenet.Server(transport=fake, **options)
        self.peers = []

    def start(self):
        self.loop.run_until_complete(self.server.start())
        self.context = self.server._context

    def connect(self, listener=None):
        """A peer that connected, to `listener` where that is not the server's of now."""
        if listener is None:
            if not hasattr(self, "context"):
                self.start()
            listener = self.server._listener
        self.peers.append(FakeTransport(self.loop, listener.new_session, self.is_tls))
        return self.peers[-1]

    @property
    def closed(self):
        return self.server.stats()["closed"]

    def pass_time(self, seconds):
        self.loop.pass_time(seconds)

    def end(self):
        """Close everything; nothing may be left behind."""
        for peer in self.peers:
            peer.protocol.abort()
        self.loop.turn()
        assert self.loop.complaints == []
        assert len(self.context.timer) == 0
        stats = self.server.stats()
        assert stats["sessions"] == 0
        assert stats["pool"]["outstanding"] == 0
        accounted = stats["bytes_dispatched"] + stats["bytes_rejected"] + stats["bytes_discarded"]
        assert stats["bytes_in"] == accounted
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.turn()
        self.loop.close()
