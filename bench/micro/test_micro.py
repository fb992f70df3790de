"""pytest-benchmark pairs: `pytest bench/micro`. Equal output is asserted before anything is timed."""

import pytest

from bench.cc import NoCompiler
from bench.micro import workloads
from gamenet import _compiled, _pure

TWINS = {"pure": _pure, "compiled": _compiled}


@pytest.fixture(params=TWINS)
def twin(request):
    assert workloads.count_handled(TWINS[request.param]) == workloads.PACKETS
    return TWINS[request.param]


@pytest.mark.benchmark(group="handle_burst: 16,384 packets of 64 bytes, an empty handler each")
def test_handle_burst(benchmark, twin):
    benchmark(workloads.handle_burst(twin))


@pytest.mark.benchmark(group="handle_pieces: 1,024 packets in pieces of 1 to 17 bytes")
def test_handle_pieces(benchmark, twin):
    benchmark(workloads.handle_pieces(twin))


@pytest.mark.benchmark(group="reply_burst: 16,384 packets, each answered")
def test_reply_burst(benchmark, twin):
    benchmark(workloads.reply_burst(twin))


@pytest.mark.benchmark(group="batch_burst: 16,384 packets, answered by a batch handler")
def test_batch_burst(benchmark, twin):
    benchmark(workloads.batch_burst(twin))


@pytest.mark.benchmark(group="handle_burst: 16,384 packets of 64 bytes, an empty handler each")
def test_walk_headers_in_c(benchmark):
    try:
        walk = workloads.walk_headers()
    except NoCompiler as error:
        pytest.skip(str(error))
    assert walk() == workloads.PACKETS
    benchmark(walk)
