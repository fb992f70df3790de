"""docs/testing.md says what is true: its example runs, and its table names what there is."""

import re
from pathlib import Path

import pytest
from plugin import find_plugin

import gamenet.testing

PAGE = Path(__file__).parents[1] / "docs" / "testing.md"

if not PAGE.exists():
    pytest.skip("the documentation is not beside these tests", allow_module_level=True)

TEXT = PAGE.read_text(encoding="utf-8")


def test_the_example_runs():
    code = re.search(r"```python\n(.*?)```", TEXT, re.DOTALL)[1]
    names = {"__name__": "example"}
    exec(compile(code, str(PAGE), "exec"), names)
    names["test_everybody_hears_it"]()


def test_every_public_name_is_told_of():
    assert [name for name in gamenet.testing.__all__ if name not in TEXT] == []


def test_every_setting_of_chaos_is_told_of():
    fields = set(gamenet.testing.Chaos.__dataclass_fields__) - {"seed"}
    assert fields == set(re.findall(r"^\| `(\w+)=", TEXT, re.MULTILINE))


def test_every_fixture_is_told_of(monkeypatch):
    find_plugin(monkeypatch)
    import pytest_gamenet

    fixtures = {name for name in vars(pytest_gamenet) if name.startswith("gamenet_")}
    assert fixtures == set(re.findall(r"^\| `(gamenet_\w+)`", TEXT, re.MULTILINE))
