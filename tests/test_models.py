"""The model of the mailbox's algorithm holds, and sees a fault; `.ci/run models` looks at all sizes and faults."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECK = Path(__file__).parent / "models" / "check.py"
RING = CHECK.parents[2] / "gamenet" / "_compiled" / "ring.h"
MISSING = [name for name in ("spin", "gcc") if shutil.which(name) is None]

if not RING.exists():
    pytest.skip("the sources are not beside these tests", allow_module_level=True)


@pytest.mark.no_sanitizer
@pytest.mark.skipif(bool(MISSING), reason=f"there is no {' and no '.join(MISSING)} here")
@pytest.mark.skipif(sys.platform != "linux", reason="the stress test uses POSIX threads")
def test_the_algorithm_of_the_mailbox():
    done = subprocess.run([sys.executable, CHECK, "--quick"], text=True, capture_output=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "holds with MAX=2 LIMIT=1" in done.stdout
    assert "found: FAULT_NO_SECOND_LOOK" in done.stdout
    assert "ring_stress, plain: passed" in done.stdout
