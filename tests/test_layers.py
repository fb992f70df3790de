"""Imports go down only. The layers are those of DESIGN: a module may import its own layer's elders and below."""

import ast
from pathlib import Path

import gamenet

ROOT = Path(gamenet.__file__).parent

LAYERS = [
    ["errors", "layout", "fields", "waiting", "pool_debug"],
    ["_pure", "_compiled"],
    ["_core"],
    [
        "limits", "logs", "admission", "timeouts", "declaration", "packets", "backlog", "reload", "dispatch",
        "heartbeat", "decoder", "frames", "backoff", "resume", "object_pool",
    ],
    [
        "timer", "loop_mailbox", "unacknowledged", "context", "deadlines", "gone", "session", "session_data", "manager",
        "watchdog", "handler_times", "client_states",
    ],
    ["transports", "resumable", "seats", "client_seat"],
    ["listener"],
    ["server", "client", "reconnect", "run"],
    ["metrics", "testing"],
    ["demo", "cli", "__main__"],
]
# layers 0 to 3 work under threads, trio, or a test with plain bytes
NO_LOOP_BELOW = 4
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        relative = path.relative_to(ROOT)
        if relative.parts[0] != "__init__.py":
            yield relative.with_suffix("").parts[0], path


def imports(path):
    """What a module imports when it runs: not what it imports for the type checker only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body.clear()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.module == "gamenet":
                yield from (f"gamenet.{alias.name}" for alias in node.names)
            else:
                yield node.module


def test_every_module_has_a_layer():
    assert {name for name, _ in modules()} <= set(LEVEL)


def test_imports_go_down():
    for name, path in modules():
        for imported in imports(path):
            parts = imported.split(".")
            if parts[0] == "gamenet" and len(parts) > 1 and parts[1] in LEVEL and parts[1] != name:
                assert LEVEL[parts[1]] <= LEVEL[name], f"{path.name} imports {imported} above it"


def test_the_twins_do_not_know_each_other():
    for name, path in modules():
        other = {"_pure": "gamenet._compiled", "_compiled": "gamenet._pure"}.get(name)
        assert not other or not any(imported.startswith(other) for imported in imports(path)), path


def test_the_lower_layers_know_no_loop_and_no_clock():
    for name, path in modules():
        if LEVEL[name] < NO_LOOP_BELOW:
            forbidden = {"asyncio", "socket", "ssl", "time", "selectors"} & set(imports(path))
            assert not forbidden, f"{path.name} imports {forbidden}"


def test_the_core_has_no_dependencies():
    import sys

    allowed = set(sys.stdlib_module_names) | {"gamenet"}
    for name, path in modules():
        if LEVEL[name] < LEVEL["metrics"]:
            assert {imported.split(".")[0] for imported in imports(path)} <= allowed, path
