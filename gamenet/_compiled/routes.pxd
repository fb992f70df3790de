from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from gamenet._compiled.batch cimport Batch
from gamenet._compiled.packet cimport RawPacket


cdef enum:
    PAGE = 256  # routes a page
    PAGES = 256  # pages: ids up to 65,535 are found by two loads, others by the dict


cdef enum:
    TIMED_RUN = 64


cdef enum:  # what a route does with a packet
    HANDLER
    BATCH
    PING
    PONG


cdef class Route:
    cdef readonly object handler
    cdef readonly object packet_type  # RawPacket or a class derived from it
    cdef readonly Py_ssize_t min_body_size
    cdef readonly int kind
    cdef readonly bint before_login  # dispatched before the session is logged in, too
    cdef readonly double cost  # of a packet, of its session's rate
    cdef readonly Py_ssize_t longest_run  # packets of a batch
    cdef RawPacket spare  # a packet object nobody else refers to, for the next packet; or None
    cdef Batch spare_batch  # likewise, for the next run

    cdef void learn_from(self, Py_ssize_t packets, double seconds, double allowed) noexcept


cdef class PingRoute(Route):
    cdef readonly uint64_t pong_id


cdef class PongRoute(Route):
    pass


cdef class RouteTable:
    cdef Route default_route
    cdef dict routes  # owns every route
    cdef PyObject** pages[PAGES]  # the same routes, borrowed from `routes` until replaced or removed there

    cdef int mirror(self, uint64_t packet_id, PyObject* route) except -1


cdef inline RawPacket take_packet(Route route):
    """A packet object of the route's own to fill: the spare one, or a new one while that is in use."""
    cdef RawPacket packet = route.spare
    if packet is None:
        return route.packet_type.__new__(route.packet_type)
    route.spare = None
    return packet


cdef inline Batch take_batch(Route route):
    """A batch object of the route's own to fill, as `take_packet`."""
    cdef Batch batch = route.spare_batch
    if batch is None:
        return Batch.__new__(Batch)
    route.spare_batch = None
    return batch


cdef inline Route find_route(RouteTable table, uint64_t packet_id):
    """The id's route, or the default, or None."""
    cdef PyObject** page
    if packet_id < PAGE * PAGES:
        page = table.pages[packet_id // PAGE]
        if page is not NULL and page[packet_id % PAGE] is not NULL:
            return <Route>page[packet_id % PAGE]
        return table.default_route
    return table.routes.get(packet_id, table.default_route)
