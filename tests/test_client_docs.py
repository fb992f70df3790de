"""docs/client.md says what is true: its example runs, and its tables name what there is."""

import dataclasses
import inspect
import re
from pathlib import Path

import pytest

import gamenet
from gamenet import client_states

PAGE = Path(__file__).parents[1] / "docs" / "client.md"

if not PAGE.exists():
    pytest.skip("the documentation is not beside these tests", allow_module_level=True)

TEXT = PAGE.read_text(encoding="utf-8")


EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def play(number):
    exec(compile(EXAMPLES[number], str(PAGE), "exec"), {"__name__": "__main__"})


def test_the_example_runs(capsys):
    play(0)
    told = capsys.readouterr().out.splitlines()
    assert told[:3] == ["Connecting(attempt=1)", "Connected(resumed=False)", "Lost(reason='network_error')"]
    assert told[-2:] == ["Connected(resumed=True)", "Closed()"]


def test_bots_run():
    play(1)


def test_a_client_in_another_language_can_resume():
    play(2)
    assert len(EXAMPLES) == 3


def test_every_state_is_told_of():
    for state in client_states.State.__args__:
        fields = ", ".join(field.name for field in dataclasses.fields(state))
        assert f"| `{state.__name__}({fields})` |" in TEXT


def test_defaults_are_those_of_the_code():
    assert "`Backoff(base=1.0, cap=30.0, attempts=5)`" in TEXT
    assert gamenet.Backoff() == gamenet.Backoff(base=1.0, cap=30.0, attempts=5)
    parameters = inspect.signature(gamenet.ReconnectingClient).parameters
    for name in ("stable_after", "connect_timeout", "greet", "heartbeat", "resume"):
        assert f"| `{name}` | {parameters[name].default} |" in TEXT
    limits = gamenet.Limits()
    assert (limits.resume_timeout, limits.max_resume_buffer, limits.max_seats_away, limits.link_timeout) == (
        30.0, 65_536, 1000, 15.0,
    )
