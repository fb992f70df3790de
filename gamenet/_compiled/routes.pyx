# cython: freethreading_compatible=True
"""From a packet id to what handles it: the compiled twin of `gamenet._pure.routes`.

What stays true: a route is never changed, only replaced, so the one that runs is not touched by a new one. All that it
learns is how long its batch handler takes. Locking rule: the thread of the server's loop only.
"""

cimport cython
from cpython.mem cimport PyMem_Calloc, PyMem_Free

from gamenet._compiled.batch cimport MAX_RUN
from gamenet._compiled.packet cimport as_number

import operator

from gamenet import errors

LONG_RUN = TIMED_RUN
"""Packets of a run whose time is taken; what takes too long with so few is not the number of packets."""


cdef class Route:
    """Where packets of one id go: `handler(session, packet)`, and the packet class it is given.

    Bodies shorter than `min_body_size` bytes never reach the handler. With `is_batch` it is
    `handler(session, batch)`, once for every run of packets. `cost` is what a packet takes of its session's rate,
    `before_login` says whether it is dispatched before the session is logged in. `longest_run` is how many packets a
    batch may have.
    Locking rule: the thread of the loop only.
    """

    def __init__(
        self, handler, packet_type=RawPacket, min_body_size=0, bint is_batch=False, double cost=1.0,
        bint before_login=False,
    ):
        if not callable(handler):
            raise TypeError(f"a handler must be callable, got {type(handler).__name__}")
        if not issubclass(packet_type, RawPacket):
            raise TypeError(f"a packet class must derive from RawPacket, got {packet_type.__name__}")
        self.handler = handler
        self.packet_type = packet_type
        self.min_body_size = as_number("min_body_size", min_body_size)
        if not 0.0 <= cost < float("inf"):
            raise errors.number_does_not_fit("cost", cost, 0, float("inf"))
        self.kind = BATCH if is_batch else HANDLER
        self.cost = cost
        self.before_login = before_login
        self.longest_run = MAX_RUN

    @property
    def is_batch(self):
        """Whether the handler takes a batch."""
        return self.kind == BATCH

    cdef void learn_from(self, Py_ssize_t packets, double seconds, double allowed) noexcept:
        if seconds > allowed:
            self.longest_run = max(TIMED_RUN, <Py_ssize_t>(packets * allowed / seconds))
        elif 2.0 * seconds < allowed and packets == self.longest_run:
            self.longest_run = min(MAX_RUN, 2 * packets)


def learn_run(Route route not None, Py_ssize_t packets, double seconds, double allowed):
    """A run of so many packets took so long: have the next ones of `route` take `allowed` seconds, more or less."""
    route.learn_from(packets, seconds, allowed)


cdef class PingRoute(Route):
    """Packets that are answered with their own body and sequence number under `pong_id`, without a handler.

    Locking rule: the thread of the loop only.
    """

    def __init__(self, pong_id):
        super().__init__(_no_handler, before_login=True)
        self.kind = PING
        self.pong_id = as_number("pong_id", pong_id)


cdef class PongRoute(Route):
    """Answers to our pings: they tell the session's round-trip time.

    Locking rule: the thread of the loop only.
    """

    def __init__(self):
        super().__init__(_no_handler, before_login=True)
        self.kind = PONG


def _no_handler(session, packet):
    raise TypeError("heartbeats are answered by their session")


@cython.no_gc_clear  # `pages` must not outlive what `routes` holds
cdef class RouteTable:
    """The routes of one server. `default` takes packets of any other id; None rejects them.

    Locking rule: the thread of the loop only.
    """

    def __cinit__(self):
        self.routes = {}

    def __dealloc__(self):
        cdef int index
        for index in range(PAGES):
            PyMem_Free(self.pages[index])

    @property
    def default(self):
        """Takes packets of any id that has no route; None rejects them."""
        return self.default_route

    @default.setter
    def default(self, Route route):
        self.default_route = route

    def set(self, packet_id, route):
        """Register or replace; a packet being handled right now keeps the old one."""
        cdef uint64_t number = as_number("packet_id", packet_id)
        if not isinstance(route, Route):
            raise TypeError(f"route must be a Route, got {type(route).__name__}")
        _old = self.routes.get(number)  # lives until the mirror no longer shows it
        self.mirror(number, <PyObject*>route)
        self.routes[number] = route

    def remove(self, packet_id):
        """`KeyError` if the id has no route."""
        number = operator.index(packet_id)
        _old = self.routes[number]  # lives until the mirror no longer shows it
        self.mirror(number, NULL)
        del self.routes[number]

    def get(self, packet_id):
        """The id's own route, without the default."""
        return self.routes.get(packet_id)

    def find(self, packet_id):
        """The id's route or the default."""
        return self.routes.get(packet_id, self.default_route)

    def exchange(self, other):
        """Swap every route and the default with `other`'s in one step: no packet sees a half of either.

        `other` then holds what was here, so that nothing is freed, and no code of anybody's runs, in between.
        """
        cdef RouteTable theirs
        cdef PyObject** page
        cdef int index
        if not isinstance(other, RouteTable):
            raise TypeError(f"other must be a RouteTable, got {type(other).__name__}")
        theirs = <RouteTable>other
        for index in range(PAGES):
            page = self.pages[index]
            self.pages[index] = theirs.pages[index]
            theirs.pages[index] = page
        self.routes, theirs.routes = theirs.routes, self.routes
        self.default_route, theirs.default_route = theirs.default_route, self.default_route

    def ids(self):
        """The ids that have a route, in ascending order."""
        return sorted(self.routes)

    def __len__(self):
        return len(self.routes)

    cdef int mirror(self, uint64_t packet_id, PyObject* route) except -1:
        cdef size_t index = packet_id // PAGE
        if index >= PAGES:
            return 0
        if self.pages[index] is NULL:
            self.pages[index] = <PyObject**>PyMem_Calloc(PAGE, sizeof(PyObject*))
            if self.pages[index] is NULL:
                raise MemoryError(f"no memory for {PAGE} routes")
        self.pages[index][packet_id % PAGE] = route
        return 0
