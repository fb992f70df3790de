"""The shapes of load. What stays true: a mode's numbers stand here only; generator and reports are told them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mode:
    """`senders` of the `connections` keep `in_flight` packets on their way, with bodies of `body_size` bytes.

    `kind` is what the generator does: "echo" (a packet comes back to its sender), "chat" (to everybody) or "idle".
    """

    name: str
    kind: str
    connections: int
    senders: int
    in_flight: int
    body_size: int

    def __str__(self) -> str:
        if self.kind == "idle":
            return f"{self.name}: {self.connections:,} connections, silent after one packet each"
        what = f"{self.in_flight} in flight, {self.body_size}-byte bodies"
        if self.kind == "chat":
            return f"{self.name}: {self.connections} connections, {self.senders} of them send with {what} to everybody"
        return f"{self.name}: {self.connections} connections, {what}"

    @property
    def generator_arguments(self) -> list[str]:
        """CONNECTIONS SENDERS IN_FLIGHT BODY_SIZE, as the generator takes them."""
        return [str(number) for number in (self.connections, self.senders, self.in_flight, self.body_size)]


MODES = [
    Mode("pipelined", "echo", 16, 16, 64, 64),
    Mode("fan-in", "echo", 200, 200, 4, 32),
    Mode("pingpong", "echo", 64, 64, 1, 32),
    Mode("chat", "chat", 100, 10, 4, 32),
    Mode("idle", "idle", 5000, 0, 1, 32),
]
