"""Check the mailbox's algorithm: every interleaving of its model, and its C between real threads.

    python3 tests/models/check.py [--quick]

`mailbox.pml` goes through `spin`, exhaustively: for several sizes, where nothing may be wrong, and once with each of
the faults it names, where something must be. `ring_stress.c` runs the ring of the compiled twin under ThreadSanitizer.
Needs spin and gcc; ends with 1, and says what happened, if anything is not as it has to be. With --quick it is one size,
one fault, and no sanitizer: a few seconds.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODEL = HERE / "mailbox.pml"
RING = HERE.parents[1] / "gamenet" / "_compiled"

SIZES = [(max_items, limit) for max_items in (1, 2, 3) for limit in (1, 2)]
FAULTS = sorted(set(re.findall(r"^#ifdef (FAULT_\w+)", MODEL.read_text(encoding="utf-8"), re.MULTILINE)))
QUICK_SIZES, QUICK_FAULTS = [(2, 1)], ["FAULT_NO_SECOND_LOOK"]
NO_RANDOM_ADDRESSES = ["setarch", "--addr-no-randomize"]
"""Some sanitizers cannot do with as much address randomisation as some kernels have."""
STRESS_ITEMS = 20_000


class NotAsItHasToBe(Exception):
    """The algorithm is wrong, or the model does not see it."""


def main(is_quick: bool = False) -> int:
    try:
        for max_items, limit in QUICK_SIZES if is_quick else SIZES:
            must_hold(f"MAX={max_items}", f"LIMIT={limit}")
        for fault in QUICK_FAULTS if is_quick else FAULTS:
            must_be_found(fault)
        stress(["plain"] if is_quick else ["sanitized", "plain"])
    except NotAsItHasToBe as error:
        print(error)
        return 1
    return 0


def must_hold(*definitions: str) -> None:
    """No error in any state, and no state left out."""
    said = explore(*definitions)
    if "errors: 0" not in said or "max search depth too small" in said:
        raise NotAsItHasToBe(f"the model does not hold with {' '.join(definitions)}:\n{said}")
    states = re.search(r"(\d+) states, stored", said)
    print(f"holds with {' '.join(definitions)}: {int(states[1]) if states else 0:,} states")


def must_be_found(fault: str) -> None:
    """The broken algorithm is seen to be broken."""
    said = explore(fault)
    found = re.search(r"pan:1: (.*) \(at depth", said)
    if found is None:
        raise NotAsItHasToBe(f"spin does not find {fault}:\n{said}")
    print(f"found: {fault}: {found[1]}")


def explore(*definitions: str) -> str:
    """What spin's verifier says, after every state that can be reached."""
    with tempfile.TemporaryDirectory() as folder:
        run(["spin", "-a", *(f"-D{name}" for name in definitions), str(MODEL)], folder)
        run(["gcc", "-O2", "-w", "-DSAFETY", "-o", "pan", "pan.c"], folder)
        return run(["./pan", "-m100000"], folder)


def stress(programs: list[str]) -> None:
    """The ring between threads; ThreadSanitizer ends the program with 66 where two of them race."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-g", "-Wall", "-Wextra", "-Werror", f"-I{RING}", "-pthread"]
        source = str(HERE / "ring_stress.c")
        for program in programs:
            sanitizer = ["-fsanitize=thread"] if program == "sanitized" else []
            run(["gcc", *options, *sanitizer, source, "-o", program], folder)
            began = time.monotonic()
            run_sanitized([f"./{program}", str(STRESS_ITEMS)], folder)
            print(f"ring_stress, {program}: passed in {time.monotonic() - began:.1f} s")


def run_sanitized(command: list[str], folder: str) -> None:
    try:
        run(command, folder)
    except NotAsItHasToBe as error:
        if "unexpected memory mapping" not in str(error):
            raise
        run([*NO_RANDOM_ADDRESSES, *command], folder)


def run(command: list[str], folder: str) -> str:
    """Both outputs of a command that has to end well, within five minutes."""
    try:
        done = subprocess.run(
            command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300
        )
    except subprocess.TimeoutExpired as error:
        raise NotAsItHasToBe(f"{' '.join(command)} does not end:\n{error.stdout}") from None
    if done.returncode:
        raise NotAsItHasToBe(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main("--quick" in sys.argv[1:]))
