"""The benchmarks: equal outputs of every workload, states that are reached, and what is shown. No time is measured."""

import importlib
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

import gamenet

ROOT = Path(__file__).parents[1]


def load_bench():
    """The checkout's `bench`, without the checkout's `gamenet`: that is the installed one."""
    if "bench" not in sys.modules:
        spec = importlib.util.spec_from_file_location("bench", ROOT / "bench" / "__init__.py")
        sys.modules["bench"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["bench"])


load_bench()

from bench import report  # noqa: E402
from bench.chart import draw  # noqa: E402
from bench.memory.kinds import KINDS  # noqa: E402
from bench.memory.states import STATES  # noqa: E402
from bench.micro.workload import UnequalOutput, Workload, Yardstick  # noqa: E402
from bench.micro.workloads import WORKLOADS  # noqa: E402
from bench.pytest_json import NoResults, read_rows  # noqa: E402
from bench.results import Ratio, Row, figures, row_of  # noqa: E402
from bench.timing import CoreTime, Measured  # noqa: E402

both_twins = pytest.mark.skipif(gamenet.backend != "compiled", reason="there is one twin only")

ROW = Row("walk", "walks", "step", {"pure": 100.0, "compiled": 10.0, "C": 5.0},
          {"pure": Ratio(10.0, 9.0, 11.5), "C": Ratio(0.5, 0.4, 0.6)})


@both_twins
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_every_contender_gives_the_same(workload):
    workload.require_equal_output()


@both_twins
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_what_is_compared_is_not_empty(workload):
    from bench.micro.twins import twin

    assert workload.output(twin("compiled"))


def test_names_are_unique():
    names = [workload.name for workload in WORKLOADS]
    assert sorted(names) == sorted(set(names))


def test_every_twinned_module_is_measured():
    twinned = {path.stem for path in (Path(gamenet.__file__).parent / "_pure").glob("*.py")}
    assert twinned <= {path.stem for path in (ROOT / "bench" / "micro" / "operations").glob("*.py")}


@both_twins
def test_a_twin_that_gives_something_else_is_found():
    different = Workload("odd", "", "", 1, None, lambda twin: twin.__name__)
    with pytest.raises(UnequalOutput, match="odd: compiled does not give"):
        different.require_equal_output()


@both_twins
def test_a_yardstick_that_gives_something_else_is_found():
    workload = Workload("odd", "", "", 1, None, lambda twin: 1, (Yardstick("two", None, lambda: 2),))
    with pytest.raises(UnequalOutput, match="odd: two does not give"):
        workload.require_equal_output()


@both_twins
def test_the_package_on_the_pure_twin_is_a_second_one():
    from bench.micro.twins import package, twin

    pure, compiled = package(twin("pure")), package(twin("compiled"))
    assert (pure.backend, compiled.backend) == ("pure", "compiled")
    assert compiled is gamenet is sys.modules["gamenet"]
    assert pure.PacketBuffer is twin("pure").PacketBuffer


def test_ratios_are_taken_per_round():
    measured = {"pure": Measured("pure", [4e-6, 12e-6, 9e-6]), "compiled": Measured("compiled", [2e-6, 4e-6, 3e-6])}
    row = row_of("walk", "walks", "step", 1000, measured)
    assert row.ns == pytest.approx({"pure": 9.0, "compiled": 3.0})
    assert row.ratios == {"pure": Ratio(pytest.approx(3.0), pytest.approx(2.0), pytest.approx(3.0))}


@pytest.mark.parametrize(
    ("value", "shown"), [(15746.2, "15,746"), (100, "100"), (43.94, "43.9"), (5.5, "5.50"), (0.1254, "0.125")]
)
def test_figures(value, shown):
    assert figures(value) == shown


def test_the_tables():
    assert report.as_markdown([ROW], "Of rounds.").splitlines() == [
        "| workload | per  | pure ns | compiled ns | pure / compiled | what  |",
        "| -------- | ---- | ------: | ----------: | --------------: | ----- |",
        "| walk     | step |     100 |        10.0 | 10.0 (9.0-11.5) | walks |",
        "",
        "| workload | beside it |   ns |          / compiled |",
        "| -------- | --------- | ---: | ------------------: |",
        "| walk     | C         | 5.00 | 0.500 (0.400-0.600) |",
        "",
        "ns are medians. A ratio is a contender's time as a multiple of the compiled twin's, median and range: above 1,",
        "compiled is faster. Of rounds.",
    ]


def test_what_was_not_measured_is_a_dash():
    tables = report.as_markdown([Row("walk", "walks", "step", {"compiled": 10.0}, {})], "")
    assert "| walk     | step |       - |        10.0 |               - | walks |" in tables
    assert "beside it" not in tables


def benchmark(contender, median, q1, q3):
    about = {"workload": "walk", "title": "walks", "unit": "step", "count": 10, "contender": contender}
    return {"extra_info": about, "stats": {"median": median, "q1": q1, "q3": q3}}


def write_json(path, *benchmarks):
    path.write_text(json.dumps({"benchmarks": benchmarks}), encoding="utf-8")
    return path


def test_results_of_pytest_are_read(tmp_path):
    other = {"extra_info": {}, "stats": {}}
    both = benchmark("compiled", 2e-7, 1e-7, 4e-7), benchmark("pure", 8e-7, 4e-7, 16e-7)
    [row] = read_rows(write_json(tmp_path / "results.json", other, *both))
    assert (row.name, row.title, row.unit) == ("walk", "walks", "step")
    assert row.ns == pytest.approx({"compiled": 20.0, "pure": 80.0})
    assert row.ratios == {"pure": Ratio(pytest.approx(4.0), pytest.approx(1.0), pytest.approx(16.0))}


def test_results_without_the_compiled_twin_have_no_ratio(tmp_path):
    [row] = read_rows(write_json(tmp_path / "results.json", benchmark("pure", 1e-6, 1e-6, 1e-6)))
    assert row.ratios == {}


@pytest.mark.parametrize("content", ["", "[1]", "{}", '{"benchmarks": [1]}', '{"benchmarks": 1}', "\x89PNG"])
def test_a_file_of_something_else_is_named(tmp_path, content):
    path = tmp_path / "results.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(NoResults, match="results.json is no JSON file of pytest-benchmark; make one with: pytest"):
        read_rows(path)


def test_a_file_without_our_benchmarks_is_named(tmp_path):
    with pytest.raises(NoResults, match="has no benchmark of bench/micro"):
        read_rows(write_json(tmp_path / "results.json", {"extra_info": {}, "stats": {}}))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(NoResults, match=r"cannot read .*results.json .*make one with: pytest bench/micro"):
        read_rows(tmp_path / "results.json")


def run_report(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["bench.report", *map(str, arguments)])
    report.main()


def test_the_command_prints_and_writes_the_tables(tmp_path, monkeypatch, capsys):
    results = write_json(tmp_path / "results.json", benchmark("compiled", 1e-7, 1e-7, 1e-7))
    run_report(monkeypatch, results, "--table", tmp_path / "table.md")
    written = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert "| walk " in written
    assert written in capsys.readouterr().out


def test_the_command_ends_with_a_line_on_a_missing_file(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="cannot read"):
        run_report(monkeypatch, tmp_path / "results.json")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--plot", "nowhere/chart.png"], "there is no folder nowhere"),
        (["--plot", "chart.txt"], "chart.txt does not end in .png, .svg, .pdf"),
        (["--table", "nowhere/table.md"], "there is no folder nowhere"),
    ],
)
def test_the_command_looks_at_its_outputs_first(monkeypatch, capsys, arguments, complaint):
    with pytest.raises(SystemExit):
        run_report(monkeypatch, "results.json", *arguments)
    assert complaint in capsys.readouterr().err


def test_without_matplotlib_the_command_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="--plot needs matplotlib, which is not installed: pip install matplotlib"):
        run_report(monkeypatch, tmp_path / "results.json", "--plot", tmp_path / "chart.png")


def test_the_chart_is_a_png(tmp_path):
    pytest.importorskip("matplotlib")
    draw([ROW, Row("run", "runs", "step", {"compiled": 3.0}, {})], tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


@both_twins
@pytest.mark.no_sanitizer
def test_pytest_writes_what_the_report_reads(tmp_path):
    results = tmp_path / "results.json"
    command = [sys.executable, "-m", "pytest", "bench/micro", "-k", "find_route", "-p", "no:cacheprovider",
               f"--benchmark-json={results}", "--benchmark-max-time=0.001", "--benchmark-min-rounds=1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    [row] = read_rows(results)
    assert row.name == "find_route"
    assert set(row.ns) == {"pure", "compiled", "dict.get"}
    assert set(row.ratios) == {"pure", "dict.get"}


def test_time_that_others_took_is_seen(monkeypatch):
    core_time = CoreTime()
    assert core_time.lost == 0.0
    clocks = {"perf_counter": iter([10.0, 14.0]), "process_time": iter([1.0, 4.0])}
    for name, values in clocks.items():
        monkeypatch.setattr(time, name, values.__next__)
    with core_time.measuring():
        pass
    assert core_time.lost == 0.25


# -- memory: a few sessions in each state

linux = pytest.mark.skipif(sys.platform != "linux", reason="it reads a process's memory from /proc")


def run_bench(monkeypatch, *arguments):
    from bench import __main__ as command

    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    command.main()


@pytest.fixture
def few(monkeypatch):
    """Two sessions to warm up."""
    from bench.memory import measure

    monkeypatch.setattr(measure, "WARM_CONNECTIONS", 2)
    return measure


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    pytest.importorskip("trustme")
    from bench.memory.clients import Certificate

    return Certificate(tmp_path_factory.mktemp("certificate"))


@linux
@both_twins
@pytest.mark.no_sanitizer
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
def test_every_state_is_reached(state, few, certificate):
    kind = next(kind for kind in KINDS if kind.name == "asyncio")
    figure = few.measure(few.Measurement(3, "asyncio", certificate), kind, state)
    waiting = 0 if state.leaves else state.reached.get("inbox", 0) + state.reached.get("unsent", 0)
    assert figure.waiting >= waiting
    assert figure.memory > -1_000_000


@linux
@both_twins
@pytest.mark.no_sanitizer
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_kind_of_server_is_measured(kind, few):
    if kind.transport == "fast":
        pytest.importorskip("aiofastnet")
    state = next(state for state in STATES if state.on_pure)
    assert few.measure(few.Measurement(3, "asyncio", None), kind, state).waiting == 0


@linux
@both_twins
def test_a_state_that_is_not_reached_is_named(few, monkeypatch):
    kind, state = KINDS[0], STATES[0]
    monkeypatch.setattr(few, "_ask", lambda server, totals: few._look({"sessions": 0}, totals))
    with pytest.raises(few.Failed, match=r"silent since connecting, asyncio: the server has .* and not {'sessions': 2}"):
        few.measure(few.Measurement(3, "asyncio", None), kind, state)


@linux
@both_twins
def test_too_few_files_are_named(monkeypatch):
    from bench.memory import run

    monkeypatch.setattr(run, "raise_file_limit", lambda: 1024)
    with pytest.raises(SystemExit, match="1,000 sessions need 1,300 open files, this system allows 1,024: ask for fewer"):
        run_bench(monkeypatch, "memory")


@linux
@both_twins
def test_an_interrupt_ends_the_run_with_a_line(monkeypatch):
    from bench.memory import run

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "measure", interrupted)
    with pytest.raises(SystemExit, match="stopped before the end"):
        run_bench(monkeypatch, "memory", "--state", STATES[0].name)


@both_twins
@pytest.mark.parametrize("name", ["memory", "net"])
def test_what_needs_linux_says_so(monkeypatch, name):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(SystemExit, match=f"bench {name} needs Linux: "):
        run_bench(monkeypatch, name)


def test_the_help_names_every_state(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run_bench(monkeypatch, "memory", "--help")
    shown = " ".join(capsys.readouterr().out.split())
    assert all(state.name in shown for state in STATES)


@linux
def test_the_table_of_memory(capsys):
    from bench.memory.measure import Figure, Measurement
    from bench.memory.report import print_table

    table = {STATES[0]: {KINDS[0]: Figure(1234.4, 0), KINDS[1]: Figure(5678, 10)}, STATES[2]: {KINDS[1]: Figure(9, 0)}}
    print_table(table, Measurement(50, "uvloop", None), 3)
    head, first, second, *notes = [line.split() for line in capsys.readouterr().out.splitlines() if line]
    assert head == ["asyncio", "fast", "of", "that", "waits"]
    assert first[-3:] == ["1,234", "5,678", "10"]
    assert second[-3:] == ["-", "9", "0"]
    assert "uvloop," in notes[0]
