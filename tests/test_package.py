"""What was installed: the files a user's tools need, and none that belong to a build."""

from importlib import metadata
from pathlib import Path

import pytest

import gamenet


@pytest.fixture
def files():
    try:
        installed = metadata.distribution("gamenet")
    except metadata.PackageNotFoundError:
        pytest.skip("these tests run on a built copy that was not installed")
    if not (installed.read_text("RECORD") or "").count("gamenet/__init__.py"):
        pytest.skip("an editable install has no list of its files")
    return {str(path).replace("\\", "/") for path in installed.files}


def test_type_checkers_and_cython_find_what_they_need(files):
    assert "gamenet/py.typed" in files
    assert "gamenet/_compiled/__init__.pyi" in files
    for name in ("buffer", "codec", "header", "outbox", "packet", "pool", "routes", "stream"):
        assert f"gamenet/_compiled/{name}.pxd" in files


def test_no_sources_of_a_build_and_no_tests_are_shipped(files):
    assert not [path for path in files if path.endswith((".c", ".pyx"))]
    top = {path.partition("/")[0] for path in files if not path.startswith("..") and not path.endswith(".pyc")}
    assert {name for name in top if not name.endswith(".dist-info")} == {"gamenet", "pytest_gamenet.py"}


def test_the_version_is_one_number():
    try:
        assert metadata.version("gamenet") == gamenet.__version__
    except metadata.PackageNotFoundError:
        pytest.skip("these tests run on a built copy that was not installed")


def test_every_public_name_is_there_and_documented():
    assert sorted(gamenet.__all__) == sorted(set(gamenet.__all__))
    for name in gamenet.__all__:
        thing = getattr(gamenet, name)
        if isinstance(thing, type) or callable(thing):
            assert thing.__doc__, name
    assert Path(gamenet.__file__).with_name("py.typed").exists()
