"""The table: states down, kinds of servers across."""

from bench.memory.kinds import Kind
from bench.memory.measure import Figure, Measurement
from bench.memory.states import State
from bench.net.measure import WARM_CONNECTIONS

NUMBER = 15

Table = dict[State, dict[Kind, Figure]]


def print_table(table: Table, measurement: Measurement, rounds: int) -> None:
    """Every figure; a dash where none was taken."""
    kinds = list(dict.fromkeys(kind for by_kind in table.values() for kind in by_kind))
    width = max(len(state.name) for state in table)
    _print_line("", width, [*(kind.name for kind in kinds), "of that waits"])
    for state, by_kind in table.items():
        waiting = max(figure.waiting for figure in by_kind.values())
        _print_line(state.name, width, [*(_cell(by_kind.get(kind)) for kind in kinds), f"{waiting:,.0f}"])
    print(
        f"\nBytes of the server's resident memory per session on {measurement.loop}, medians of {rounds} servers; "
        f"{measurement.sessions:,} sessions\neach (100 at most where each takes much) after {WARM_CONNECTIONS} to warm "
        "up. The kernel's socket buffers are not counted.\nOf that waits: what arrived and was not dispatched, or was "
        "sent and not taken by the system."
    )


def _print_line(head: str, width: int, cells: list[str]) -> None:
    print(f"{head:<{width}}" + "".join(f"{cell:>{NUMBER}}" for cell in cells))


def _cell(figure: Figure | None) -> str:
    return "-" if figure is None else f"{figure.memory:,.0f}"
