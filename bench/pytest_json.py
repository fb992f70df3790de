"""Results of `pytest bench/micro --benchmark-json=FILE`.

What stays true: pytest-benchmark measures one contender after the other, so there are no ratios per round. The range
of a ratio is that of the quartiles: the third of one by the first of the other, and the other way round.
"""

import json
from pathlib import Path
from typing import Any

from bench.results import COMPILED, Ratio, Row

RANGES = "Ranges are those of the quartiles, for pytest measures one contender after the other."
HOW_TO_MAKE_ONE = "make one with: pytest bench/micro --benchmark-json=RESULTS.json"


class NoResults(Exception):
    """Why a file could not be read, and what to do."""


def read_rows(path: Path) -> list[Row]:
    """The workloads of a file, in its order. `NoResults` if there are none in it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found: dict[str, list[dict[str, Any]]] = {}
        for benchmark in content["benchmarks"]:
            if "workload" in benchmark["extra_info"]:
                found.setdefault(benchmark["extra_info"]["workload"], []).append(benchmark)
    except OSError as error:
        raise NoResults(f"cannot read {path} ({error.strerror}); {HOW_TO_MAKE_ONE}") from None
    except (ValueError, TypeError, KeyError):
        raise NoResults(f"{path} is no JSON file of pytest-benchmark; {HOW_TO_MAKE_ONE}") from None
    if not found:
        raise NoResults(f"{path} has no benchmark of bench/micro in it; {HOW_TO_MAKE_ONE}")
    return [_row(benchmarks) for benchmarks in found.values()]


def _row(benchmarks: list[dict[str, Any]]) -> Row:
    about = benchmarks[0]["extra_info"]
    stats = {benchmark["extra_info"]["contender"]: benchmark["stats"] for benchmark in benchmarks}
    compiled = stats.get(COMPILED)
    return Row(
        about["workload"], about["title"], about["unit"],
        {contender: one["median"] / about["count"] * 1e9 for contender, one in stats.items()},
        {
            contender: Ratio(
                one["median"] / compiled["median"], one["q1"] / compiled["q3"], one["q3"] / compiled["q1"]
            )
            for contender, one in stats.items()
            if compiled is not None and one is not compiled
        },
    )
