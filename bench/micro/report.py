"""`python -m bench micro`: ns per packet and ratios, measured in turn."""

from collections.abc import Callable

from bench.cc import NoCompiler
from bench.micro import workloads
from bench.timing import alternate, spread
from gamenet import _compiled, _pure

Contenders = dict[str, Callable[[], object]]

WALK = "C walks the headers"
FLOOR = "C calls the handler"


def main(rounds: int) -> None:
    """Measure and print."""
    assert workloads.count_handled(_pure) == workloads.count_handled(_compiled) == workloads.PACKETS
    print(f"{rounds} rounds, every contender once in each; ns are medians, ratios are medians (and ranges) per round")
    burst: Contenders = {"pure": workloads.handle_burst(_pure), "compiled": workloads.handle_burst(_compiled)}
    fresh: Contenders = {"compiled": workloads.handle_fresh(_compiled)}
    try:
        burst |= {WALK: workloads.walk_headers(), FLOOR: workloads.call_empty_handler()}
        fresh |= {WALK: workloads.walk_headers(workloads.fresh_bursts())}
    except NoCompiler as error:
        print(f"without the C yardsticks: {error}")
    _report("handle_burst: 1 MiB of 64-byte packets, an empty Python handler each", workloads.PACKETS, burst, rounds)
    _report("handle_fresh: the same, 64 MiB that no cache holds", workloads.PACKETS * 64, fresh, max(5, rounds // 3))
    for title, packets, make in (
        ("handle_pieces: packets in pieces of 1 to 17 bytes", workloads.PACKETS // 16, workloads.handle_pieces),
        ("reply_burst: each packet answered with itself", workloads.PACKETS, workloads.reply_burst),
        ("batch_burst: the same by a batch handler", workloads.PACKETS, workloads.batch_burst),
    ):
        _report(title, packets, {"pure": make(_pure), "compiled": make(_compiled)}, rounds)


def _report(title: str, packets: int, contenders: Contenders, rounds: int) -> None:
    measured = alternate(contenders, rounds)
    print(f"\n{title}")
    for one in measured.values():
        print(f"  {one.name:<20}{one.median / packets * 1e9:9.1f} ns per packet")
    compiled = measured["compiled"]
    if "pure" in measured:
        print(f"  pure / compiled     {spread(measured['pure'].ratios_to(compiled))}")
    if WALK in measured:
        print(f"  compiled / C walk   {spread(compiled.ratios_to(measured[WALK]))}")
    if FLOOR in measured:
        print(f"  C call / C walk     {spread(measured[FLOOR].ratios_to(measured[WALK]))}")
