"""docs/threads.md says what is true: its example runs, and its table names what there is."""

import asyncio
import re
from pathlib import Path

import pytest

import gamenet

PAGE = Path(__file__).parents[1] / "docs" / "threads.md"

if not PAGE.exists():
    pytest.skip("the documentation is not beside these tests", allow_module_level=True)

TEXT = PAGE.read_text(encoding="utf-8")
HAS = {
    "session": gamenet.Session,
    "room": gamenet.Room,
    "server": gamenet.Server,
    "client": gamenet.Client,
}


def test_the_example_runs():
    code = re.search(r"```python\n(.*?)```", TEXT, re.DOTALL)[1]
    names = {"__name__": "example"}
    exec(compile(code, str(PAGE), "exec"), names)
    ticks, hits = asyncio.run(asyncio.wait_for(names["main"](), 30))
    assert ticks == list(range(ticks[0], ticks[0] + 3))
    assert hits == list(range(1, len(hits) + 1))
    assert len(hits) >= 3


def test_every_call_of_the_table_exists():
    named = re.findall(r"`(session|room|server|client)\.(\w+)", TEXT)
    slots = {"id", "peername", "is_closed", "close_reason", "data"}
    missing = [f"{owner}.{name}" for owner, name in named if not hasattr(HAS[owner], name) and name not in slots]
    assert [name for name in missing if not name.startswith("server.sessions")] == []


def test_every_call_for_other_threads_is_told_of():
    for owner, made in HAS.items():
        for name in vars(made):
            if name.endswith("_threadsafe") or name == "call_soon":
                assert f"`{owner}.{name}(" in TEXT, name


def test_every_entry_of_the_account_is_told_of():
    account = gamenet.Server().stats()["mailbox"]
    assert [name for name in account if f'"{name}": ' not in TEXT] == []


def test_the_limit_is_as_documented():
    assert f"`max_mailbox` ({gamenet.Limits().max_mailbox:,})" in TEXT
