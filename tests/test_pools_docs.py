"""docs/pools.md says what is true: its examples run, one after the other, and its modes and policies are those there are."""

import asyncio
import re
from pathlib import Path

import pytest

import gamenet
from gamenet import pool_debug
from gamenet.testing import leak_check, serve

PAGE = Path(__file__).parents[1] / "docs" / "pools.md"

if not PAGE.exists():
    pytest.skip("the documentation is not beside these tests", allow_module_level=True)

TEXT = PAGE.read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture
def example():
    """The names of the page, when all of it has run."""
    names = {"__name__": "example"}
    for code in CODE:
        exec(compile(code, str(PAGE), "exec"), names)
    yield names
    names["left"].close()
    names["right"].close()


async def test_the_examples_run(example):
    server, explorers = example["server"], example["explorers"]
    async with leak_check(), serve(server) as net:
        for _ in range(2):  # the second player has seen nothing of what the first one did
            client = await net.connect()
            client.send(1, b"\3\4")
            assert (await anext(aiter(client))).body == b"\3\4"
            session = next(iter(server.sessions))
            assert [(x, y) for y, row in enumerate(session.data.seen) for x, seen in enumerate(row) if seen] == [(3, 4)]
            await client.close()
            while server.sessions:
                await asyncio.sleep(0)
    assert (explorers.stats()["made"], explorers.outstanding) == (1, 0)


def test_every_mode_and_policy_is_told_of():
    for mode in pool_debug.MODES.split(", "):
        assert re.search(rf"^\| `{mode}` \|", TEXT, re.MULTILINE), mode
    for policy in ("heap", "raise", "wait"):
        assert f'`"{policy}"`' in TEXT
        gamenet.PoolAllocator(when_empty=policy, running_loop=lambda: None)
