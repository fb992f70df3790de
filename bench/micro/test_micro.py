"""pytest-benchmark pairs of the one list: `pytest bench/micro`, `-k NAME` for some. Equal output is asserted first.

To see ratios: `--benchmark-json=RESULTS.json`, then `python -m bench.report RESULTS.json`.
"""

import functools
from subprocess import CalledProcessError

import pytest

import gamenet
from bench.cc import NoCompiler
from bench.micro.workloads import WORKLOADS

if gamenet.backend != "compiled":
    pytest.skip("this gamenet is not built: there is nothing to compare", allow_module_level=True)

PAIRS = [
    pytest.param(workload, contender, id=f"{workload.name}-{contender}")
    for workload in WORKLOADS
    for contender in workload.contenders
]


@functools.cache
def require_equal_output(workload):
    workload.require_equal_output()


@pytest.mark.benchmark(disable_gc=True)
@pytest.mark.parametrize(("workload", "contender"), PAIRS)
def test_micro(benchmark, workload, contender):
    require_equal_output(workload)
    benchmark.group = f"{workload.name}: {workload.title} ({workload.count:,} per call)"
    benchmark.extra_info |= {
        "workload": workload.name,
        "title": workload.title,
        "unit": workload.unit,
        "count": workload.count,
        "contender": contender,
    }
    try:
        run = workload.contenders[contender]()
    except (NoCompiler, CalledProcessError) as error:
        pytest.skip(str(error))
    benchmark(run)
