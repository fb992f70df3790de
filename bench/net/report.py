"""The tables: one per mode, and one of all medians.

"busy" is the share of its turn that the server had its core: one far below 100 % waited for the generator. p50 and p99
are round trips: from a packet's sending to its own sender's hearing it.
"""

import statistics

from bench.net.measure import IdleResult, Result, TalkResult
from bench.timing import spread

NAME, NUMBER = 32, 12


def print_result(result: Result) -> None:
    """The table of one mode."""
    print(f"\n{result.mode}")
    if isinstance(result, IdleResult):
        _print_idle(result)
    else:
        _print_talk(result)


def _print_talk(result: TalkResult) -> None:
    unit = "deliveries/s" if result.mode.kind == "chat" else "packets/s"
    baseline = result.by_peer[result.baseline]
    heads = f"{unit:>{NUMBER}}{'p50 ms':>9}{'p99 ms':>9}{'busy':>6}"
    print(f"  {'':<{NAME}}{heads}   rate / {result.baseline}: median (range)")
    for name, talk in result.by_peer.items():
        rate, p50, p99, busy = map(statistics.median, (talk.rates, talk.p50, talk.p99, talk.busy))
        times = f"{p50 * 1000:>9.2f}{p99 * 1000:>9.2f}{busy:>6.0%}"
        print(f"  {name:<{NAME}}{rate:>{NUMBER},.0f}{times}   {spread(talk.ratios_to(baseline))}")
    print(
        f"  {len(result.rounds)} rounds, {result.repeats} repeated; CPU time stolen by the host "
        f"{_lost(result, 'stolen')}, taken by other programs {_lost(result, 'waited')}"
    )
    disturbed = sum(not one.is_calm for one in result.rounds)
    if disturbed:
        print(f"  {disturbed} of these rounds lost more than a round may: measure again on a quieter machine")


def _lost(result: TalkResult, what: str) -> str:
    shares = [getattr(one, what) for one in result.rounds]
    return f"{statistics.median(shares):.1%} ({min(shares):.1%}-{max(shares):.1%})"


def _print_idle(result: IdleResult) -> None:
    print(f"  {'':<{NAME}}{'bytes':>{NUMBER}}   resident memory of the server per connection; the kernel's not counted")
    for name, size in result.by_peer.items():
        print(f"  {name:<{NAME}}{size:>{NUMBER},.0f}")


def print_summary(results: list[Result]) -> None:
    """All medians in one table: a row per peer, a column per mode."""
    names = list(dict.fromkeys(name for result in results for name in result.by_peer))
    print("\nmedians: rates as multiples of the baseline, idle in bytes per connection")
    print(f"  {'':<{NAME}}" + "".join(f"{result.mode.name:>{NUMBER}}" for result in results))
    for name in names:
        print(f"  {name:<{NAME}}" + "".join(f"{_cell(result, name):>{NUMBER}}" for result in results))


def _cell(result: Result, name: str) -> str:
    if name not in result.by_peer:
        return "-"
    value = result.medians()[name]
    return f"{value:,.0f}" if isinstance(result, IdleResult) else f"{value:.2f}"
