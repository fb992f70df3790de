"""The receive buffer of a loop: where its sockets are read into, one after the other.

What stays true: what was read is copied out before the next read. (The compiled twin parses it in place and takes
another block when somebody keeps a view.)
"""

RECEIVE_SIZE = 262144
"""Bytes of a receive buffer: what asyncio reads at once, too."""


class Receiver:
    """One block for every session of a loop, since each read is parsed before the next begins.

    Locking rule: the thread of the loop only.
    """

    __slots__ = ("_view", "size")

    def __init__(self, size: int = RECEIVE_SIZE) -> None:
        self.size = size
        self._view = memoryview(bytearray(size))

    @property
    def held(self) -> int:
        """Blocks that were read into and that somebody still looks at; the next read went elsewhere."""
        return 0
