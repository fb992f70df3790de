"""The servers that are measured: gamenet on each of its transports, and its pure twin."""

from dataclasses import dataclass

from bench.memory.states import State


@dataclass(frozen=True)
class Kind:
    """A column of the table: the server's transport, and its twin."""

    name: str
    transport: str
    is_pure: bool = False

    def can(self, state: State) -> bool:
        """Whether it is measured in that state: the epoll transport has no TLS."""
        return (state.on_pure or not self.is_pure) and not (state.tls and self.transport == "epoll")


KINDS = [
    Kind("asyncio", "asyncio"),
    Kind("fast", "fast"),
    Kind("epoll", "epoll"),
    Kind("pure, asyncio", "asyncio", is_pure=True),
]
