"""The micro benchmarks as tables: ns per packet, and ratios.

`python -m bench.report RESULTS.json` shows what `pytest bench/micro --benchmark-json=RESULTS.json` measured.
What stays true: gamenet is not needed here, so one machine's results can be shown on another.
"""

import argparse
import sys
from pathlib import Path

from bench.chart import NoMatplotlib, draw, require_matplotlib
from bench.pytest_json import RANGES, NoResults, read_rows
from bench.results import COMPILED, PURE, Ratio, Row, figures

LEGEND = f"""\
ns are medians. A ratio is a contender's time as a multiple of the compiled twin's, median and range: above 1,
{COMPILED} is faster."""
PICTURES = (".png", ".svg", ".pdf")


def add_outputs(parser: argparse.ArgumentParser) -> None:
    """The options of everybody who shows results."""
    parser.add_argument("--table", type=_file, metavar="FILE.md", help="write the tables to a Markdown file too")
    parser.add_argument("--plot", type=_picture, metavar="FILE.png", help="draw them too (needs matplotlib)")


def write(rows: list[Row], ranges: str, table: Path | None, plot: Path | None) -> None:
    """Print the tables; write and draw them where asked to. `ranges` says what the ranges of ratios are."""
    text = as_markdown(rows, ranges)
    print(f"\n{text}", end="")
    if table is not None:
        table.write_text(text, encoding="utf-8")
        print(f"\nwritten: {table}")
    if plot is not None:
        draw(rows, plot)
        print(f"\ndrawn: {plot}")


def as_markdown(rows: list[Row], ranges: str) -> str:
    """Both tables: the twins, and what stands beside them; then how to read them."""
    twins = [["workload", "per", f"{PURE} ns", f"{COMPILED} ns", f"{PURE} / {COMPILED}", "what"]]
    beside = [["workload", "beside it", "ns", f"/ {COMPILED}"]]
    for row in rows:
        times = [_cell(row.ns, name) for name in (PURE, COMPILED)]
        twins.append([row.name, row.unit, *times, _cell(row.ratios, PURE), row.title])
        for name in row.ns:
            if name not in (PURE, COMPILED):
                beside.append([row.name, name, _cell(row.ns, name), _cell(row.ratios, name)])
    parts = [_table(twins, "<<>>><")]
    if len(beside) > 1:
        parts.append(_table(beside, "<<>>"))
    return "\n\n".join([*parts, f"{LEGEND} {ranges}"]) + "\n"


def _cell(values: dict[str, float] | dict[str, Ratio], contender: str) -> str:
    value = values.get(contender)
    return "-" if value is None else figures(value) if isinstance(value, float) else str(value)


def _table(lines: list[list[str]], alignments: str) -> str:
    """Markdown that is as readable as it is: every column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    formats = [f"{align}{width}" for align, width in zip(alignments, widths, strict=True)]
    rule = ["-" * (width - 1) + (":" if align == ">" else "-") for align, width in zip(alignments, widths, strict=True)]
    padded = [map(format, line, formats) for line in [lines[0], rule, *lines[1:]]]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in padded)


def _file(text: str) -> Path:
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}")
    return path


def _picture(text: str) -> Path:
    path = _file(text)
    if path.suffix not in PICTURES:
        raise argparse.ArgumentTypeError(f"{path.name} does not end in {', '.join(PICTURES)}")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.report",
        description="Show the micro benchmarks that pytest measured, as tables and as a chart.",
        epilog="Make the results with: pytest bench/micro --benchmark-json=RESULTS.json",
    )
    parser.add_argument("results", type=Path, metavar="RESULTS.json", help="what pytest-benchmark wrote")
    add_outputs(parser)
    options = parser.parse_args()
    try:
        if options.plot is not None:
            require_matplotlib()
        write(read_rows(options.results), RANGES, options.table, options.plot)
    except (NoMatplotlib, NoResults, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
