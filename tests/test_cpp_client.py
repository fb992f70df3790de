"""The C++ client of examples/, compiled here and run against the demo server, and against servers that lie."""

import contextlib
import shutil
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "examples" / "cpp_client" / "client.cpp"
COMPILER = shutil.which("g++") or shutil.which("clang++")
FLAGS = ["-std=c++17", "-Wall", "-Wextra", "-Werror"]
SANITIZE = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover"]

pytestmark = [
    pytest.mark.no_sanitizer,
    pytest.mark.skipif(COMPILER is None, reason="no C++ compiler"),
    pytest.mark.skipif(not SOURCE.exists(), reason="no examples beside the tests"),
]


def build(target, *flags):
    libraries = ["-static", "-lws2_32"] if sys.platform == "win32" else []
    command = [COMPILER, *FLAGS, *flags, str(SOURCE), "-o", str(target), *libraries]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """Runs the compiled client; with sanitizers where the compiler has them."""
    program = tmp_path_factory.mktemp("cpp_client") / "client.exe"
    if build(program, *SANITIZE).returncode:
        built = build(program)
        assert built.returncode == 0, built.stderr

    def run(*arguments):
        done = subprocess.run([program, *map(str, arguments)], capture_output=True, timeout=30)
        return done.returncode, done.stdout.decode().splitlines(), done.stderr.decode().splitlines()

    return run


@pytest.fixture(scope="module")
def demo():
    """A running `gamenet demo` with bots that chat and move all the time: its port and the guest's password."""
    command = [sys.executable, "-P", "-m", "gamenet", "demo", "--port", "0", "--bots", "5"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        port = int(process.stdout.readline().split()[-1])
        yield port, process.stdout.readline().split()[-1]
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_it_logs_in_and_hears_itself(client, demo):
    port, password = demo
    code, out, err = client("127.0.0.1", port, "guest", password, "hello from C++")
    assert (code, err) == (0, [])
    assert out[0].startswith("logged in as player ")
    assert out[1:] == ["heard: guest: hello from C++", "ok"]


@pytest.mark.skipif(sys.platform == "win32", reason="arguments are in the code page there, the wire is UTF-8")
def test_the_longest_line_comes_back_cut(client, demo):
    code, out, _ = client("localhost", demo[0], "guest", demo[1], "\u00e9" * 128)
    assert code == 0
    assert out[1] == "heard: guest: " + "\u00e9" * 124


@pytest.mark.parametrize(
    ("user", "password", "text", "reason"),
    [
        ("guest", "wrong", "x", "login failed: AUTHENTICATION_FAILED"),
        ("nobody", "wrong", "x", "login failed: AUTHENTICATION_FAILED"),
        ("guest", None, " ", "refused: INVALID_PACKET: there is no message"),
        ("guest", None, "x" * 257, "the text takes 256 bytes, got 257"),
        ("g" * 33, "", "x", "the user name takes 32 bytes, got 33"),
        ("guest", "p" * 65, "x", "the password takes 64 bytes, got 65"),
    ],
)
def test_what_is_refused_is_named(client, demo, user, password, text, reason):
    port, right = demo
    code, _, err = client("127.0.0.1", port, user, right if password is None else password, text)
    assert (code, err) == (1, [f"failed: {reason}"])


def test_no_server_and_no_arguments(client):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    code, _, err = client("127.0.0.1", port, "guest", "x", "x")
    assert code == 1
    assert err[0].startswith("failed: cannot connect: ")
    code, _, err = client("127.0.0.1")
    assert code == 1
    assert err[0].startswith("usage: ")


# -- servers that lie


def packet(packet_id, body, sequence):
    return struct.pack("<HHI", packet_id, 8 + len(body), sequence) + body


@contextlib.contextmanager
def server_that_sends(chunks):
    """Takes one client, sends it `chunks` one by one, then ends. Gives the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            connection, _ = listener.accept()
            with connection, contextlib.suppress(ConnectionError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for chunk in chunks:
                    connection.sendall(chunk)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(4096):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(30)


LOGGED_IN = packet(1101, struct.pack("<II", 0, 7), 1)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"", "the server has closed the connection"),
        (LOGGED_IN[:11], "the server has closed the connection"),
        (b"\0" * 8, "a packet states the size 0"),
        (b"\xff" * 8, "a packet states the size 65535"),
        (packet(1101, b"", 1), "packet 1101 needs 16 bytes, got 8"),
        (LOGGED_IN + packet(1002, b"x" * 255, 2), "packet 1002 needs 264 bytes, got 263"),
        (LOGGED_IN + packet(1002, b"u: other".ljust(256, b"\0"), 2), "that is not what was said"),
        (LOGGED_IN + packet(1002, b"x" * 256, 2), "that is not what was said"),
        (LOGGED_IN + packet(1002, bytes(256), 2), "that is not what was said"),
        (packet(1101, struct.pack("<II", 4711, 0), 1), "login failed: error 4711"),
        (packet(1102, struct.pack("<IH", 1004, 1001) + b"\x1b[2J" * 16, 1), "refused: DATABASE_ERROR: " + "?[2J" * 16),
        (packet(1102, b"", 1), "packet 1102 needs 78 bytes, got 8"),
    ],
)
def test_it_believes_nothing(client, sent, reason):
    with server_that_sends([sent]) as port:
        code, _, err = client("127.0.0.1", port, "u", "p", "text")
    assert (code, err) == (1, [f"failed: {reason}"])


def test_answers_come_in_pieces_and_between_others(client):
    others = packet(1003, b"a move of somebody", 0) + packet(1002, b"ada: hi".ljust(256, b"\0"), 0)
    stream = others + LOGGED_IN + others + packet(1002, b"u: text".ljust(256, b"\0"), 2)
    with server_that_sends([stream[i : i + 1] for i in range(len(stream))]) as port:
        assert client("127.0.0.1", port, "u", "p", "text") == (0, ["logged in as player 7", "heard: u: text", "ok"], [])
