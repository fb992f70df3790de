"""The command line: help and errors in this process, what runs until it is stopped in one of its own."""

import asyncio
import ctypes
import importlib.util
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
import urllib.request
from pathlib import Path

import pytest
import trustme
from click.testing import CliRunner

import gamenet
from gamenet.cli.commands import gamenet as command
from gamenet.cli.demo import GUEST
from gamenet.cli.live import Figures
from gamenet.cli.running import run_server
from gamenet.demo.accounts import Accounts
from gamenet.demo.fleet import Report
from gamenet.demo.packets import FROM_SERVER, Chat, Login
from gamenet.errors import ErrorCode

ON_WINE = sys.platform == "win32" and hasattr(ctypes.windll.ntdll, "wine_get_version")
EXAMPLES = Path(__file__).parents[1] / "examples"
STOPS = ["SIGINT", "SIGTERM"] if os.name == "posix" else ["CTRL_BREAK_EVENT"]
MODULE = "import gamenet\nserver = gamenet.Server()\nother = 3\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty current folder; what is imported from it is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("chat", "broken", "pack"):
            del sys.modules[name]


def invoke(*arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments], prog_name="gamenet")


def one_line(result):
    """The error of a command that failed in order: one line, no traceback."""
    assert result.exit_code in (1, 2)
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    line = result.output.splitlines()[-1]
    assert line.startswith("Error: ")
    return line.removeprefix("Error: ")


# -- help and errors


def test_the_version_names_the_backend():
    result = invoke("--version")
    assert (result.exit_code, result.output) == (0, f"gamenet {gamenet.__version__} ({gamenet.backend})\n")


@pytest.mark.parametrize(("arguments", "words"), [((), "demo serve"), (("demo",), "--bots --port"), (("serve",), "--tls-cert")])
def test_help_is_everywhere(arguments, words):
    for option in ("-h", "--help"):
        result = invoke(*arguments, option)
        assert result.exit_code == 0
        assert all(word in result.output for word in words.split())


@pytest.mark.parametrize("target", ["chat", "chat:", ":server", "chat.py", "a/b:c", ".chat:server", "chat:server()", ""])
def test_a_target_has_a_module_and_a_name(folder, target):
    result = invoke("serve", target)
    assert one_line(result) == f"{target!r} is not of the form MODULE:SERVER, such as chat_server:server"
    assert result.exit_code == 2


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("missing:server", "there is no module 'missing' in {folder} or on sys.path"),
        ("pack.missing:server", "there is no module 'pack.missing' in {folder} or on sys.path"),
        ("chat.missing:server", "there is no module 'chat.missing' in {folder} or on sys.path"),
        ("chat.py:server", "there is no module 'chat.py' in {folder} or on sys.path; leave the .py away"),
        ("chat:missing", "the module 'chat' has no 'missing'"),
        ("chat:server.missing", "the module 'chat' has no 'server.missing'"),
        ("chat:other", "chat:other is no gamenet.Server but a int"),
    ],
)
def test_a_target_that_is_no_server(folder, target, error):
    (folder / "chat.py").write_text(MODULE)
    (folder / "pack").mkdir()
    (folder / "pack" / "__init__.py").touch()
    assert one_line(invoke("serve", target)) == error.format(folder=os.getcwd())


@pytest.mark.parametrize("line", ["import no_such_thing", "from gamenet import no_such_name", "1 / 0", "x ="])
def test_an_error_inside_the_module_keeps_its_traceback(folder, line):
    (folder / "broken.py").write_text(line)
    result = invoke("serve", "broken:server")
    assert result.exit_code == 1
    assert isinstance(result.exception, (ImportError, ZeroDivisionError, SyntaxError))


@pytest.fixture(scope="module")
def pems(tmp_path_factory):
    """A certificate for localhost: certificate, key, and the authority that signed it."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    files = [folder / name for name in ("cert.pem", "key.pem", "authority.pem")]
    certificate.cert_chain_pems[0].write_to_path(files[0])
    certificate.private_key_pem.write_to_path(files[1])
    authority.cert_pem.write_to_path(files[2])
    return files


def test_a_certificate_and_its_key_belong_together(folder, pems):
    for option, path in [("--tls-cert", pems[0]), ("--tls-key", pems[1])]:
        assert "belong together" in one_line(invoke("serve", "chat:server", option, path))


@pytest.mark.parametrize(("cert", "key"), [("missing.pem", None), (None, "missing.pem"), ("text.pem", None), (None, "text.pem")])
def test_a_certificate_that_cannot_be_used(folder, pems, cert, key):
    (folder / "text.pem").write_text("this is no certificate")
    files = str(cert or pems[0]), str(key or pems[1])
    error = one_line(invoke("serve", "chat:server", "--tls-cert", files[0], "--tls-key", files[1]))
    assert error.startswith(f"cannot use {files[0]} with {files[1]}: ")


@pytest.mark.parametrize("arguments", [("demo",), ("serve", "chat:server")])
def test_a_port_in_use(folder, arguments):
    (folder / "chat.py").write_text(MODULE)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error = one_line(invoke(*arguments, "--port", port))
    assert error.startswith(f"cannot listen on 127.0.0.1 port {port}: ")


def test_a_loop_that_is_not_installed(folder):
    (folder / "chat.py").write_text(MODULE)
    missing = next(name for name in ("winloop", "uvloop") if importlib.util.find_spec(name) is None)
    error = one_line(invoke("serve", "chat:server", "--loop", missing))
    assert error == f"the event loop {missing} is not installed: pip install {missing}"


def test_options_out_of_range():
    assert "70000 is not in the range" in one_line(invoke("demo", "--port", 70000))
    assert "-1 is not in the range" in one_line(invoke("demo", "--bots", -1))
    assert "'loud' is not one of" in one_line(invoke("demo", "--log-level", "loud"))


def test_accounts_that_are_no_database(folder):
    path = folder / "accounts.db"
    path.write_text("this is no database, but long enough to be looked at" * 100)
    assert one_line(invoke("demo", "--accounts", path)) == (
        f"{path}: the accounts cannot be used: file is not a database"
    )


def test_what_fails_later_is_no_wrong_address():
    def fail():
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        run_server(gamenet.Server(), "127.0.0.1", 0, "asyncio", on_ready=fail)


# -- the live line


def test_the_line_shows_rates():
    before = Figures(now=10.0, players=0, packets_in=100, packets_out=1000)
    now = Figures(now=12.0, players=51, packets_in=500, packets_out=21000)
    assert " ".join(now.line(before, None).split()) == "players 51 packets/s in 200 out 10,000"
    report = Report(bots=50, playing=48, ended=2, round_trips=9, p99=0.00149)
    assert now.line(before, report).endswith("round trip p99   1.5 ms  bots 48 of 50, 2 ended")
    assert "p99        -  bots 0 of 50" in now.line(before, Report(bots=50))
    assert now.line(now, None).startswith("players 51")


# -- programs


def environment(**more):
    """Ours, for programs in other folders: with the absolute paths of what is imported here."""
    paths = [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **more}


class Program:
    """`gamenet` in a process of its own, and what it has written."""

    def __init__(self, *arguments, cwd=None):
        flags = subprocess.CREATE_NEW_PROCESS_GROUP if os.name == "nt" else 0
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "gamenet", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=environment(),
            creationflags=flags,
        )
        self.output = b""
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait(30)
        self.reader.join(30)
        self.process.stdout.close()

    def _read(self):
        for line in self.process.stdout:
            self.output += line

    def wait_for(self, pattern, seconds=30):
        """The first group of `pattern` in what it writes."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            is_over = not self.reader.is_alive()
            found = re.search(pattern, self.output.decode())
            if found:
                return found[1]
            if is_over:
                break
            time.sleep(0.01)
        raise AssertionError(f"no {pattern!r} in {self.output.decode()!r}")

    def stop(self, name):
        if ON_WINE:
            pytest.skip("wine has no console that could send Ctrl+Break")
        self.process.send_signal(getattr(signal, name))
        return self.finish()

    def finish(self):
        """Its exit code and all it wrote."""
        code = self.process.wait(30)
        self.reader.join(30)
        return code, self.output.decode()


async def log_in_and_chat(port, password):
    async with gamenet.connect("127.0.0.1", port, packets=FROM_SERVER) as client:
        assert (await client.request(Login(GUEST, password))).code == ErrorCode.SUCCESS
        assert (await client.request(Chat("hello"))).message == f"{GUEST}: hello"


@pytest.mark.no_sanitizer
@pytest.mark.parametrize("stop", STOPS)
def test_the_demo_runs_and_stops(stop):
    with Program("demo", "--port", 0, "--bots", 5) as program:
        port = int(program.wait_for(r"listens on 127.0.0.1 port (\d+)\s"))
        password = program.wait_for(r"with the password (\S+)\s")
        asyncio.run(log_in_and_chat(port, password))
        assert program.wait_for(r"(bots 5 of 5)")
        code, output = program.stop(stop)
    assert (code, "Traceback" in output) == (0, False), output
    assert "stopped playing" not in output
    with pytest.raises(OSError, match=r".+"):
        socket.create_connection(("127.0.0.1", port), 5).close()


@pytest.mark.no_sanitizer
def test_the_demo_keeps_accounts_in_a_file(tmp_path):
    path = tmp_path / "accounts.db"
    with Accounts(str(path)) as accounts:
        accounts.set_password("ada", "of before")
    with Program("demo", "--port", 0, "--accounts", path, "--loop", "asyncio") as program:
        password = program.wait_for(r"with the password (\S+)\s")
        assert program.stop(STOPS[-1])[0] == 0
    with Accounts(str(path)) as accounts:
        assert asyncio.run(accounts.check("ada", "of before")) != asyncio.run(accounts.check(GUEST, password))


@pytest.mark.no_sanitizer
@pytest.mark.skipif(os.name == "nt", reason="no pseudo-terminals")
def test_a_terminal_shows_the_live_line_until_ctrl_c():
    import pty  # there is none on Windows

    ours, theirs = pty.openpty()
    command = [sys.executable, "-P", "-m", "gamenet", "demo", "--port", "0", "--bots", "2"]
    terminal = environment(TERM="xterm", COLUMNS="120")
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=terminal, process_group=0)
    os.close(theirs)
    shown = b""
    try:
        while b"bots 2 of 2" not in shown:
            shown += os.read(ours, 4096)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(30) == 0
        shown += os.read(ours, 4096)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert b"\x1b[2K" in shown  # the line is drawn over the last one
    assert b"Traceback" not in shown


@pytest.mark.no_sanitizer
@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.skipif(not EXAMPLES.exists(), reason="no examples beside the tests")
def test_serve_runs_a_module_of_the_current_folder(stop):
    async def chat(port):
        async with gamenet.connect("127.0.0.1", port, packets=[Chat]) as client:
            client.send(Chat("hello"))
            assert (await anext(client)).message == "hello"

    with Program("serve", "chat_server:server", "--port", 0, cwd=EXAMPLES) as program:
        asyncio.run(chat(int(program.wait_for(r"listening on 127.0.0.1 port (\d+)\s"))))
        code, output = program.stop(stop)
    assert (code, "Traceback" in output) == (0, False), output


@pytest.mark.no_sanitizer
def test_serve_speaks_tls(tmp_path, pems):
    async def play(port):
        context = ssl.create_default_context(cafile=str(pems[2]))
        async with gamenet.connect("127.0.0.1", port, ssl=context) as client:
            assert (await client.request(7, b"over TLS")).body == b"over TLS"

    module = """
        import gamenet
        server = gamenet.Server()

        @server.on(7)
        def echo(session, packet):
            session.reply(packet)
    """
    (tmp_path / "chat.py").write_text(textwrap.dedent(module))
    options = ["--port", 0, "--tls-cert", pems[0], "--tls-key", pems[1], "--loop", "asyncio"]
    with Program("serve", "chat:server", *options, cwd=tmp_path) as program:
        asyncio.run(play(int(program.wait_for(r"port (\d+)\s"))))


@pytest.mark.no_sanitizer
def test_a_traceback_of_the_users_module_is_shown(tmp_path):
    (tmp_path / "broken.py").write_text("import no_such_thing")
    with Program("serve", "broken:server", cwd=tmp_path) as program:
        code, output = program.finish()
    assert code == 1
    assert "Traceback" in output
    assert "import no_such_thing" in output


@pytest.mark.no_sanitizer
@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_click_or_rich_one_line_says_what_to_install(missing):
    program = f"import sys; sys.modules[{missing!r}] = None; from gamenet.cli import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-P", "-c", program, "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "the command line needs: pip install 'gamenet[cli]'\n")


@pytest.mark.no_sanitizer
def test_serve_answers_prometheus(tmp_path):
    pytest.importorskip("prometheus_client")
    module = """
        import gamenet
        server = gamenet.Server()

        @server.on(7)
        def echo(session, packet):
            session.reply(packet)
    """
    (tmp_path / "chat.py").write_text(textwrap.dedent(module))
    options = ["--port", 0, "--metrics-port", 0, "--metrics-handlers"]
    with Program("serve", "chat:server", *options, cwd=tmp_path) as program:
        url = program.wait_for(r"metrics on (http://127.0.0.1:\d+/metrics)\s")
        program.wait_for(r"listening on 127.0.0.1 port (\d+)\s")
        scraped = urllib.request.urlopen(url, timeout=30).read().decode()
        assert 'gamenet_sessions{server="chat:server"} 0.0' in scraped
        assert 'gamenet_handler_loop_seconds_count{packet_id="7",server="chat:server"} 0.0' in scraped
        busy = url.rpartition(":")[2].partition("/")[0]
        with Program("serve", "chat:server", "--port", 0, "--metrics-port", busy, cwd=tmp_path) as other:
            code, output = other.finish()
            assert (code, "Traceback" in output) == (1, False)
            assert f"Error: cannot listen on 127.0.0.1 port {busy}" in output
        code, output = program.stop(STOPS[-1])
    assert (code, "Traceback" in output) == (0, False), output


@pytest.mark.no_sanitizer
@pytest.mark.parametrize("how", ["import", "serve"])
def test_without_prometheus_client_one_line_says_what_to_install(tmp_path, how):
    (tmp_path / "chat.py").write_text("import gamenet\nserver = gamenet.Server()\n")
    code = "import sys; sys.modules['prometheus_client'] = None; "
    if how == "import":
        code += "import gamenet.metrics"
    else:
        code += "from gamenet.cli import main; sys.argv[1:] = ['serve', 'chat:server', '--metrics-port', '0']; main()"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        "gamenet.metrics needs prometheus-client: pip install 'gamenet[metrics]'"
    )
    assert ("Traceback" in done.stderr) == (how == "import")
