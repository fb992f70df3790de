"""The demo game: accounts, rules, and the whole of it over real sockets."""

import asyncio
import gc
import logging
import math
import sqlite3
import struct
import threading
from collections import Counter
from contextlib import AsyncExitStack
from random import Random

import pytest
import pytest_asyncio

import gamenet
from gamenet.demo import accounts as accounts_module
from gamenet.demo import fleet as fleet_module
from gamenet.demo import game as game_module
from gamenet.demo.accounts import OWASP_COST, Accounts, AccountsError, Cost, PasswordHash
from gamenet.demo.bot_process import BotProcess
from gamenet.demo.bots import Bot
from gamenet.demo.chat import chat_line
from gamenet.demo.fleet import Fleet, Plan
from gamenet.demo.game import Game
from gamenet.demo.packets import (
    FROM_SERVER,
    Attack,
    Chat,
    ErrorReply,
    Health,
    Joined,
    Left,
    Login,
    LoginReply,
    Move,
)
from gamenet.demo.round_trips import RoundTrips
from gamenet.demo.world import (
    ARENA_SIZE,
    ATTACK_COOLDOWN,
    ATTACK_RANGE,
    MAX_DAMAGE,
    MAX_HIT_POINTS,
    MIN_DAMAGE,
    Refused,
    World,
)
from gamenet.errors import AuthenticationError, ErrorCode

CHEAP = Cost(n=2, r=1, p=1)
PASSWORD = "correct horse 7"


@pytest.fixture
def accounts():
    with Accounts(cost=CHEAP) as accounts:
        yield accounts


@pytest.fixture
def hashed(monkeypatch):
    """The costs and threads of every password hashed in this test."""
    calls = []
    real = accounts_module._scrypt

    def scrypt(password, salt, cost):
        calls.append((cost, threading.get_ident()))
        return real(password, salt, cost)

    monkeypatch.setattr(accounts_module, "_scrypt", scrypt)
    return calls


# -- the wire


def test_the_packets_are_the_packed_structs():
    sizes = {packet: packet.body_size_of() for packet in (Login, *FROM_SERVER)}
    assert sizes == {
        Login: 96,
        Chat: 256,
        Move: 12,
        Attack: 10,
        LoginReply: 8,
        ErrorReply: 70,
        Joined: 46,
        Left: 4,
        Health: 6,
    }
    assert Move(1, 2.0, 3.0).body == struct.pack("<Iff", 1, 2.0, 3.0)
    assert Login("a", "b").body == b"a".ljust(32, b"\0") + b"b".ljust(64, b"\0")


# -- accounts


async def test_a_password_is_right_or_wrong(accounts):
    accounts.set_password("ada", PASSWORD)
    account = await accounts.check("ada", PASSWORD)
    for name, password in [("ada", ""), ("ada", PASSWORD + "."), ("Ada", PASSWORD), ("", PASSWORD), ("eve", "")]:
        with pytest.raises(AuthenticationError, match="^wrong name or password$"):
            await accounts.check(name, password)
    accounts.set_password("ada", "another")
    assert await accounts.check("ada", "another") == account
    with pytest.raises(AuthenticationError):
        await accounts.check("ada", PASSWORD)


async def test_an_unknown_user_costs_what_a_wrong_password_costs(hashed):
    cost = Cost(n=4, r=2, p=3)
    with Accounts(cost=cost) as accounts:
        accounts.set_password("ada", PASSWORD)
        hashed.clear()
        for name in ("ada", "nobody"):
            with pytest.raises(AuthenticationError):
                await accounts.check(name, "wrong")
    costs, threads = zip(*hashed, strict=True)
    assert costs == (cost, cost)
    assert threading.get_ident() not in threads


async def test_the_cost_of_each_account_is_kept(tmp_path, hashed):
    path = str(tmp_path / "accounts.db")
    with Accounts(path, cost=CHEAP) as accounts:
        accounts.set_password("old", PASSWORD)
    dearer = Cost(n=4, r=2, p=3)
    with Accounts(path, cost=dearer) as accounts:
        accounts.set_password("new", PASSWORD)
        hashed.clear()
        assert await accounts.check("old", PASSWORD) != await accounts.check("new", PASSWORD)
    assert [cost for cost, _ in hashed] == [CHEAP, dearer]


def test_what_is_kept_does_not_tell_the_password(tmp_path):
    path = tmp_path / "accounts.db"
    with Accounts(str(path), cost=CHEAP) as accounts:
        accounts.set_password("ada", PASSWORD)
        accounts.set_password("bob", PASSWORD)
    assert PASSWORD.encode() not in path.read_bytes()
    rows = sqlite3.connect(path)
    assert rows.execute("SELECT count(DISTINCT salt), count(DISTINCT hash) FROM accounts").fetchone() == (2, 2)
    rows.close()


def test_the_default_cost_is_one_that_owasp_names():
    assert (OWASP_COST.n, OWASP_COST.r, OWASP_COST.p) == (2**14, 8, 5)
    assert PasswordHash.of(PASSWORD, OWASP_COST).matches(PASSWORD)
    assert not PasswordHash.of_nobody(CHEAP).matches(PASSWORD)


@pytest.mark.parametrize("name", ["' OR '1'='1", "x'; DROP TABLE accounts; --", 'a" --', "%", "ada\\", "ada' /*"])
async def test_names_that_look_like_sql_are_names(accounts, name):
    accounts.set_password("ada", PASSWORD)
    with pytest.raises(AuthenticationError):
        await accounts.check(name, PASSWORD)
    accounts.set_password(name, "its own")
    assert await accounts.check(name, "its own") != await accounts.check("ada", PASSWORD)


def test_names_and_passwords_that_cannot_be(accounts):
    for name in ("", "x" * 33, "\u00e9" * 17, "a:b", "a\nb", "a\0b", "\x1b[2J"):
        with pytest.raises(ValueError, match="name|user_id"):
            accounts.set_password(name, PASSWORD)
    for password in ("", "x" * 65, "a\0b"):
        with pytest.raises(ValueError, match="password"):
            accounts.set_password("ada", password)
    accounts.set_password("x" * 32, "y" * 64)


async def test_programs_share_one_cheap_hash(hashed):
    with Accounts() as accounts:
        names = [f"bot-{number}" for number in range(200)]
        accounts.set_random_password(names, "drawn at random")
        assert len(hashed) == 1
        assert len({await accounts.check(name, "drawn at random") for name in names}) == 200
        with pytest.raises(AuthenticationError):
            await accounts.check("bot-1", "guessed")


async def test_a_few_passwords_are_checked_at_a_time(monkeypatch):
    running, most, go_on = 0, 0, threading.Event()
    lock = threading.Lock()

    def scrypt(password, salt, cost):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        go_on.wait(10)
        with lock:
            running -= 1
        return b""

    monkeypatch.setattr(accounts_module, "_scrypt", scrypt)
    with Accounts(cost=CHEAP, max_checks=2) as accounts:
        checks = [asyncio.ensure_future(accounts.check("ada", PASSWORD)) for _ in range(8)]
        while running < 2:
            await asyncio.sleep(0.005)
        for check in checks[:4]:
            check.cancel()  # their players have gone, but two hashes go on: nobody may take their place
        await asyncio.sleep(0.05)
        assert running == 2
        go_on.set()
        results = await asyncio.gather(*checks, return_exceptions=True)
    assert most == 2
    assert Counter(map(type, results)) == {asyncio.CancelledError: 4, AuthenticationError: 4}


async def test_a_check_that_nobody_waits_for_any_longer_ends_silently(accounts, monkeypatch, until):
    started, go_on, complaints = threading.Event(), threading.Event(), []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
    monkeypatch.setattr(accounts_module, "_scrypt", lambda *_: started.set() or (go_on.wait(10) and b""))
    check = asyncio.ensure_future(accounts.check("ada", PASSWORD))
    await until(started.is_set)
    check.cancel()
    await asyncio.wait([check])
    go_on.set()
    await until(lambda: len(asyncio.all_tasks()) == 1)
    del check
    gc.collect()  # the loop would be told now of an exception that nobody has seen
    assert complaints == []


@pytest.mark.parametrize(
    "damage",
    [
        "DROP TABLE accounts",
        "UPDATE accounts SET n = 3",
        "UPDATE accounts SET n = 1 << 40",
        "UPDATE accounts SET n = 1 << 26, r = 8",
        "UPDATE accounts SET n = -2",
        "UPDATE accounts SET salt = 'text'",
        "UPDATE accounts SET hash = 7",
    ],
)
async def test_a_damaged_database_is_an_accounts_error(accounts, damage):
    accounts.set_password("ada", PASSWORD)
    accounts._database.execute(damage)
    with pytest.raises(AccountsError) as caught:
        await accounts.check("ada", PASSWORD)
    assert caught.value.code is ErrorCode.DATABASE_ERROR
    assert PASSWORD not in str(caught.value)


async def test_a_database_that_is_none(tmp_path, accounts):
    path = tmp_path / "text.db"
    path.write_text("this is no database, but long enough to be looked at" * 100)
    with pytest.raises(AccountsError, match="not a database"):
        Accounts(str(path))
    with pytest.raises(AccountsError, match="unable to open"):
        Accounts(str(tmp_path / "missing" / "accounts.db"))
    accounts.close()
    accounts.close()
    with pytest.raises(AccountsError):
        await accounts.check("ada", PASSWORD)
    with pytest.raises(AccountsError):
        accounts.set_password("ada", PASSWORD)


# -- the rules


@pytest.fixture
def world():
    return World(Random(1))


def place(world, player_id, x, y):
    player = world.join(player_id, f"player-{player_id}")
    player.x, player.y = x, y
    return player


def test_players_come_and_go(world):
    player = world.join(1, "ada")
    assert world.players == {1: player}
    assert (player.name, player.hit_points) == ("ada", MAX_HIT_POINTS)
    with pytest.raises(ValueError, match="player 1 is in the arena already"):
        world.join(1, "bob")
    world.leave(player)
    assert world.players == {}
    with pytest.raises(KeyError):
        world.leave(player)


@pytest.mark.parametrize("x", [math.nan, math.inf, -math.inf])
def test_a_position_is_finite(world, x):
    player = place(world, 1, 3.0, 4.0)
    for position in ((x, 1.0), (1.0, x)):
        with pytest.raises(Refused, match="finite"):
            world.move(player, *position)
    assert (player.x, player.y) == (3.0, 4.0)


def test_a_position_is_inside_the_arena(world):
    player = world.join(1, "ada")
    low, high = (0.0, ARENA_SIZE)
    for value, inside in [(low, low), (-0.001, low), (-1e300, low), (high, high), (high + 0.001, high), (1e300, high)]:
        world.move(player, value, 50.0)
        assert (player.x, player.y) == (inside, 50.0)
        world.move(player, 50.0, value)
        assert (player.x, player.y) == (50.0, inside)


def test_an_attack_hits_within_its_range(world):
    attacker, target = place(world, 1, 0.0, 0.0), place(world, 2, ATTACK_RANGE, 0.0)
    hit = world.attack(attacker, 2, now=0.0)
    assert hit.target is target
    assert MIN_DAMAGE <= hit.damage <= MAX_DAMAGE
    assert target.hit_points == hit.hit_points == MAX_HIT_POINTS - hit.damage
    target.x = math.nextafter(ATTACK_RANGE, math.inf)
    with pytest.raises(Refused, match="out of range"):
        world.attack(attacker, 2, now=10.0)


def test_an_attack_needs_its_cooldown(world):
    attacker, target = place(world, 1, 0.0, 0.0), place(world, 2, 1.0, 1.0)
    world.attack(attacker, 2, now=5.0)
    left = target.hit_points
    with pytest.raises(Refused, match="too early"):
        world.attack(attacker, 2, now=math.nextafter(5.0 + ATTACK_COOLDOWN, 0.0))
    assert target.hit_points == left
    world.attack(attacker, 2, now=5.0 + ATTACK_COOLDOWN)
    world.attack(target, 1, now=5.0)  # each has its own


def test_targets_that_cannot_be(world):
    attacker = place(world, 1, 0.0, 0.0)
    with pytest.raises(Refused, match="himself"):
        world.attack(attacker, 1, now=0.0)
    with pytest.raises(Refused, match="nobody of that id") as caught:
        world.attack(attacker, 2, now=0.0)
    assert caught.value.code is ErrorCode.SESSION_NOT_FOUND


def test_a_knocked_out_player_is_back_at_once(world):
    attacker, target = place(world, 1, 0.0, 0.0), place(world, 2, 1.0, 1.0)
    target.hit_points = 3
    hit = world.attack(attacker, 2, now=0.0)
    assert (hit.damage, hit.hit_points, hit.is_knockout) == (3, 0, True)
    assert target.hit_points == MAX_HIT_POINTS
    assert (target.x, target.y) != (1.0, 1.0)
    assert 0 <= target.x <= ARENA_SIZE
    assert 0 <= target.y <= ARENA_SIZE


def test_the_same_seed_is_the_same_game():
    def play(seed):
        world = World(Random(seed))
        attacker, target = world.join(1, "ada"), world.join(2, "bob")
        places = [attacker.x, attacker.y, target.x, target.y]
        attacker.x, attacker.y = target.x, target.y
        return places, [world.attack(attacker, 2, now=n).damage for n in range(5)]

    assert play(7) == play(7)
    assert play(7) != play(8)


# -- the chat line


def test_a_chat_line_fits_the_packet():
    assert chat_line("ada", "hello") == "ada: hello"
    assert chat_line("ada", "x" * 251) == "ada: " + "x" * 251
    assert chat_line("ada", "x" * 252) == "ada: " + "x" * 251
    for shift in range(4):
        line = chat_line("n" * (28 + shift), "\U0001f600" * 64)
        assert 252 < len(line.encode()) <= 256
        assert line.endswith("\U0001f600")
        Chat(line)


@pytest.mark.parametrize("message", ["", "  ", "a\nb", "\x1b[2J", "bell\x07", "\x7f", "\x9b2J", "a\u2028b"])
def test_messages_that_cannot_be(message):
    with pytest.raises(Refused):
        chat_line("ada", message)


def test_letters_of_every_language_can_be_said():
    text = "안녕, ¿qué tal? \U0001f468\u200d\U0001f469\u200d\U0001f467"
    assert chat_line("ada", text) == f"ada: {text}"


# -- the game, over real sockets


class Table:
    """A running game, and clients of it."""

    def __init__(self, stack, accounts):
        self.stack = stack
        self.accounts = accounts
        self.now = 0.0
        self.server = gamenet.Server()
        self.game = Game(self.server, accounts, World(Random(1)), clock=lambda: self.now)

    async def connect(self):
        connecting = gamenet.connect("127.0.0.1", self.server.port, packets=FROM_SERVER)
        return await self.stack.enter_async_context(connecting)

    async def join(self, name):
        """A client that has logged in and has seen who is there, and its player."""
        client = await self.connect()
        reply = await client.request(Login(name, PASSWORD))
        assert reply.code == ErrorCode.SUCCESS
        player = self.game.world.players[reply.player_id]
        while (await receive(client, Joined)).player_id != player.id:
            pass
        return client, player


async def receive(client, kind):
    """The next packet of a kind; those of other kinds before it are left out."""
    async with asyncio.timeout(10):
        async for packet in client:
            if isinstance(packet, kind):
                return packet
    raise AssertionError(f"the connection ended before a {kind.__name__}")


async def nothing_came(client):
    """True if nothing that the server has sent until now waits to be received."""
    assert isinstance(await client.request(Chat("")), ErrorReply)  # comes behind all of it
    return not client._queue


@pytest_asyncio.fixture
async def table(accounts):
    loop = asyncio.get_running_loop()
    complaints = []
    loop.set_exception_handler(lambda loop, context: complaints.append(context))
    for name in ("ada", "bob", "eve"):
        accounts.set_password(name, PASSWORD)
    async with AsyncExitStack() as stack:
        table = Table(stack, accounts)
        await stack.enter_async_context(table.server)
        yield table
    for _ in range(5):
        await asyncio.sleep(0)
    assert complaints == []
    assert asyncio.all_tasks() <= {asyncio.current_task()}
    assert table.game.world.players == {}
    assert table.game._visitors == {}
    assert table.game._sessions == {}
    assert len(table.game.arena) == 0


async def test_login_shows_everybody_to_everybody(table):
    ada, ada_player = await table.join("ada")
    bob, bob_player = await table.join("bob")
    seen = await receive(ada, Joined)
    assert (seen.player_id, seen.name, seen.hit_points) == (bob_player.id, "bob", MAX_HIT_POINTS)
    assert (seen.x, seen.y) == pytest.approx((bob_player.x, bob_player.y))
    assert await nothing_came(bob)
    (session,) = [session for session in table.server.sessions if session.data is ada_player]
    assert session in table.game.arena
    assert table.game.counts["logins"] == 2


@pytest.mark.parametrize("name", ["nobody", "ada", "", "' OR '1'='1", "\u00e9" * 16, "Ada"])
async def test_a_failed_login_is_answered_and_the_connection_lives_on(table, name):
    client = await table.connect()
    reply = await client.request(Login(name, "wrong"))
    assert (type(reply), reply.code, reply.player_id) == (LoginReply, ErrorCode.AUTHENTICATION_FAILED, 0)
    assert table.game.counts["failed_logins"] == 1
    assert (await client.request(Login("ada", PASSWORD))).code == ErrorCode.SUCCESS


async def test_passwords_cannot_be_tried_for_ever(table):
    client = await table.connect()
    for _ in range(game_module.MAX_FAILED_LOGINS):
        reply = await client.request(Login("ada", "wrong"))
        assert reply.code == ErrorCode.AUTHENTICATION_FAILED
    assert await client.wait_closed() == "peer_closed"
    assert table.server.stats()["closed"] == {"failed_logins": 1}


async def test_whoever_does_not_log_in_is_closed(table, monkeypatch):
    monkeypatch.setattr(game_module, "LOGIN_TIMEOUT", 0.03)
    visitor = await table.connect()
    assert await visitor.wait_closed() == "peer_closed"
    assert table.server.stats()["closed"] == {"login_timeout": 1}


async def test_the_login_deadline_is_lifted_by_the_login(table, until):
    client = await table.connect()
    await until(lambda: table.game._visitors)
    (visitor,) = table.game._visitors.values()
    assert not visitor.deadline.cancelled()
    await client.request(Login("ada", PASSWORD))
    assert visitor.deadline.cancelled()


async def test_the_login_deadline_waits_for_a_check_of_ours(table, monkeypatch, until):
    go_on = threading.Event()
    real = accounts_module._scrypt
    monkeypatch.setattr(accounts_module, "_scrypt", lambda *arguments: go_on.wait(10) and real(*arguments))
    client = await table.connect()
    answer = asyncio.ensure_future(client.request(Login("ada", PASSWORD)))
    await until(lambda: any(session.is_suspended for session in table.server.sessions))
    ((session, visitor),) = table.game._visitors.items()
    first = visitor.deadline
    first.cancel()
    table.game._login_overdue(session)
    assert session.is_open
    assert visitor.deadline is not first
    go_on.set()
    assert (await answer).code == ErrorCode.SUCCESS


@pytest.mark.parametrize("packet", [Chat("let me in"), Move(1, 1.0, 1.0), Attack(1, 1, 50)])
async def test_nothing_but_login_before_login(table, packet):
    ada, ada_player = await table.join("ada")
    visitor = await table.connect()
    reply = await visitor.request(packet)
    assert (type(reply), reply.code) == (ErrorReply, ErrorCode.SESSION_NOT_FOUND)
    assert (reply.refused_id, reply.text) == (packet.packet_id, "log in first")
    assert table.game.counts["refused: log in first"] == 1
    assert await nothing_came(ada)
    assert ada_player.hit_points == MAX_HIT_POINTS
    assert (await visitor.request(Login("bob", PASSWORD))).code == ErrorCode.SUCCESS


async def test_what_follows_a_login_waits_for_it(table):
    client = await table.connect()
    client.send(Login("ada", PASSWORD), sequence=1)
    client.send(Chat("first"), sequence=2)
    assert (await receive(client, LoginReply)).code == ErrorCode.SUCCESS
    assert (await receive(client, Chat)).message == "ada: first"


async def test_a_second_login_in_one_session_is_refused(table):
    ada, player = await table.join("ada")
    reply = await ada.request(Login("bob", PASSWORD))
    assert (type(reply), reply.code, reply.refused_id) == (ErrorReply, ErrorCode.INVALID_PACKET, 1001)
    assert table.game.world.players == {player.id: player}


async def test_the_newest_login_of_an_account_wins(table):
    bob, _ = await table.join("bob")
    old, old_player = await table.join("ada")
    await receive(bob, Joined)
    new, new_player = await table.join("ada")
    assert new_player.id == old_player.id
    assert (await receive(bob, Left)).player_id == old_player.id
    assert (await receive(bob, Joined)).player_id == new_player.id
    assert (await receive(old, ErrorReply)).text == "logged in elsewhere"
    assert await old.wait_closed() == "peer_closed"
    assert table.server.stats()["closed"] == {"logged_in_elsewhere": 1}
    assert len(table.game.world.players) == len(table.game.arena) == 2
    assert (await new.request(Chat("here"))).message == "ada: here"
    assert isinstance(await receive(bob, (Left, Joined, Chat)), Chat)  # and no second Left


async def test_many_logins_of_one_account_at_once(table, until):
    clients = [await table.connect() for _ in range(6)]
    replies = await asyncio.gather(*[client.request(Login("ada", PASSWORD)) for client in clients])
    assert {reply.code for reply in replies} == {ErrorCode.SUCCESS}
    await until(lambda: len(table.server.sessions) == 1)
    assert len(table.game.world.players) == len(table.game.arena) == 1
    assert table.server.stats()["closed"] == {"logged_in_elsewhere": 5}


async def test_chat_goes_to_everybody_with_its_sender(table):
    ada, _ = await table.join("ada")
    bob, _ = await table.join("bob")
    await receive(ada, Joined)
    visitor = await table.connect()
    echo = await ada.request(Chat("hello all"))
    assert (type(echo), echo.packet_id, echo.body_size, echo.message) == (Chat, 1002, 256, "ada: hello all")
    heard = await receive(bob, Chat)
    assert (heard.message, heard.sequence) == ("ada: hello all", 0)
    assert await nothing_came(visitor)
    assert await nothing_came(ada)


async def test_a_message_of_every_byte_of_its_field(table):
    table.accounts.set_password("n" * 32, PASSWORD)
    client, _ = await table.join("n" * 32)
    assert (await client.request(Chat("x" * 256))).message == "n" * 32 + ": " + "x" * 222
    reply = await client.request(1002, b"\x1b[2J".ljust(256, b"\0"))
    assert (type(reply), reply.code) == (ErrorReply, ErrorCode.INVALID_PACKET)
    assert (await client.request(1002, b"\xff\xfe".ljust(256, b"\0"))).message == "n" * 32 + ": \ufffd\ufffd"


async def test_moves_go_to_everybody(table):
    ada, player = await table.join("ada")
    bob, _ = await table.join("bob")
    move = await ada.request(Move(999, 7.5, -3.0))
    assert (move.player_id, move.x, move.y) == (player.id, 7.5, 0.0)
    seen = await receive(bob, Move)
    assert (seen.player_id, seen.x, seen.y, seen.sequence) == (player.id, 7.5, 0.0, 0)
    assert (player.x, player.y) == (7.5, 0.0)


@pytest.mark.parametrize("x", [math.nan, math.inf, -math.inf])
async def test_a_move_to_nowhere_is_refused(table, x):
    ada, player = await table.join("ada")
    bob, _ = await table.join("bob")
    await receive(ada, Joined)
    before = player.x, player.y
    reply = await ada.request(1003, struct.pack("<Iff", player.id, 1.0, x))
    assert (type(reply), reply.code, reply.refused_id) == (ErrorReply, ErrorCode.INVALID_PACKET, 1003)
    assert (player.x, player.y) == before
    assert await nothing_came(bob)


async def test_attacks_go_to_everybody(table):
    ada, attacker = await table.join("ada")
    bob, target = await table.join("bob")
    attacker.x, attacker.y = target.x, target.y
    attack = await ada.request(Attack(999, target.id, 60000))
    assert (attack.attacker_id, attack.target_id) == (attacker.id, target.id)
    assert MIN_DAMAGE <= attack.damage <= MAX_DAMAGE
    assert (await receive(bob, Attack)) == attack
    for client in (ada, bob):
        health = await receive(client, Health)
        assert (health.player_id, health.hit_points) == (target.id, MAX_HIT_POINTS - attack.damage)
    reply = await ada.request(Attack(0, target.id, 1))
    assert (type(reply), reply.text) == (ErrorReply, "too early for the next attack")
    table.now += ATTACK_COOLDOWN
    assert isinstance(await ada.request(Attack(0, target.id, 1)), Attack)


async def test_a_knockout_is_seen_by_everybody(table):
    ada, attacker = await table.join("ada")
    bob, target = await table.join("bob")
    attacker.x, attacker.y, target.hit_points = target.x, target.y, 1
    assert (await ada.request(Attack(0, target.id, 0))).damage == 1
    for client in (ada, bob):
        assert (await receive(client, Health)).hit_points == 0
        move = await receive(client, Move)
        assert (move.player_id, move.x, move.y) == (target.id, pytest.approx(target.x), pytest.approx(target.y))
        assert (await receive(client, Health)).hit_points == MAX_HIT_POINTS
    assert table.game.counts["knockouts"] == 1


async def test_an_attack_on_nobody_is_refused(table):
    ada, player = await table.join("ada")
    for target, code in [(4_000_000_000, ErrorCode.SESSION_NOT_FOUND), (player.id, ErrorCode.INVALID_PACKET)]:
        reply = await ada.request(Attack(player.id, target, 1))
        assert (type(reply), reply.code, reply.refused_id) == (ErrorReply, code, 1004)


async def test_leaving_is_told_to_the_others(table):
    ada, _ = await table.join("ada")
    bob, player = await table.join("bob")
    await bob.close()
    assert (await receive(ada, Left)).player_id == player.id
    assert player.id not in table.game.world.players
    _, again = await table.join("bob")
    assert again.id == player.id


async def test_who_leaves_while_the_password_is_checked_never_plays(table, monkeypatch, until):
    go_on = threading.Event()
    real = accounts_module._scrypt
    monkeypatch.setattr(accounts_module, "_scrypt", lambda *arguments: go_on.wait(10) and real(*arguments))
    tasks = len(asyncio.all_tasks())
    client = await table.connect()
    client.send(Login("ada", PASSWORD))
    await until(lambda: any(session.is_suspended for session in table.server.sessions))
    for session in table.server.sessions:
        session.abort()
    await until(lambda: len(table.server.sessions) == 0)
    go_on.set()
    await until(lambda: len(asyncio.all_tasks()) == tasks)
    assert table.game.world.players == {}
    assert table.game.counts["logins"] == 0


async def test_a_broken_database_breaks_nothing_else(table, caplog):
    ada, _ = await table.join("ada")
    table.accounts._database.execute("DROP TABLE accounts")
    visitor = await table.connect()
    reply = await visitor.request(Login("bob", PASSWORD))
    assert (type(reply), reply.code) == (LoginReply, ErrorCode.DATABASE_ERROR)
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "the accounts cannot be used: no such table" in record.getMessage()
    assert (await ada.request(Chat("still here"))).message == "ada: still here"
    for _ in range(game_module.MAX_FAILED_LOGINS):  # it is not the visitor's fault: its session lives on
        assert (await visitor.request(Login("bob", PASSWORD))).code == ErrorCode.DATABASE_ERROR
    assert (await visitor.request(Chat("?"))).code == ErrorCode.SESSION_NOT_FOUND
    assert table.server.stats()["handler_errors"] == 0


async def test_no_password_reaches_a_log_or_a_repr(table, caplog):
    caplog.set_level(logging.DEBUG)
    secrets = ["s3cret-wrong", PASSWORD, "s3cret-late"]
    client = await table.connect()
    await client.request(Login("nobody", secrets[0]))
    await client.request(Login("ada", PASSWORD))
    await client.request(Login("ada", secrets[2]))
    client.send(1001, b"ada".ljust(32, b"\0") + secrets[0].encode())  # too short to be a LOGIN
    table.accounts.close()
    await (await table.connect()).request(Login("bob", secrets[0]))
    assert len(caplog.records) >= 4
    formatter = logging.Formatter()
    for record in caplog.records:
        assert not [secret for secret in secrets if secret in formatter.format(record)]
    assert "password=***" in repr(Login("ada", PASSWORD))
    assert PASSWORD not in repr(Login("ada", PASSWORD)) + repr(table.accounts) + repr(table.game)


async def test_what_a_client_writes_cannot_forge_log_lines(table, caplog):
    client = await table.connect()
    await client.request(Login("x\n2026 ERROR all is lost", "wrong"))
    (record,) = [record for record in caplog.records if record.name == "gamenet.demo"]
    assert "\n" not in record.getMessage()
    assert "all is lost" in record.getMessage()


# -- bots


def plan_of(table, count=5, **changes):
    names = [f"bot-{number}" for number in range(count)]
    table.accounts.set_random_password(names, "drawn at random")
    fields = {"host": "127.0.0.1", "port": table.server.port, "names": names, "password": "drawn at random", "seed": 3}
    return Plan(**{**fields, **changes})


async def test_bots_play(table, monkeypatch, until):
    monkeypatch.setattr(fleet_module, "MIN_INTERVAL", 0.01)
    async with Fleet(plan_of(table, 8)) as fleet:
        assert fleet.report.playing == 0
        await until(lambda: fleet.report.playing == 8)
        await until(lambda: fleet.report.round_trips >= 200, 30)
        assert len(table.game.world.players) == 8
        assert fleet.report.ended == 0
        assert fleet.report.p99 > 0
    assert fleet.report.playing == 0
    assert fleet.ended == {}
    stats = table.server.stats()
    assert stats["packets_out"] > stats["packets_dispatched"] >= 200
    assert stats["handler_errors"] == 0
    assert sum(stats["rejected"].values()) == 0


async def test_a_bot_that_loses_its_connection_says_why(table, caplog, until):
    async with Fleet(plan_of(table, 3)) as fleet:
        await until(lambda: fleet.report.playing == 3)
        next(iter(table.server.sessions)).close("kicked")
        await until(lambda: fleet.report.ended == 1)
        assert fleet.report.playing == 2
    assert fleet.ended == {"the connection has ended: peer_closed": 1}
    assert "bot-0 has stopped playing: the connection has ended: peer_closed" in caplog.text


async def test_bots_that_may_not_play_say_so(table, until):
    async with Fleet(plan_of(table, 2, password="wrong")) as fleet:
        await until(lambda: fleet.report.ended == 2)
    assert fleet.ended == {"login refused: AUTHENTICATION_FAILED": 2}


async def test_bots_without_a_server_say_so(until):
    plan = Plan("127.0.0.1", 1, ["bot-1"], "drawn at random", seed=1)
    async with Fleet(plan) as fleet:
        await until(lambda: fleet.report.ended == 1)
    assert fleet.report.playing == 0


def test_a_bot_draws_the_same_with_the_same_seed():
    def actions(seed):
        bot = Bot("bot", "password", Random(seed), RoundTrips(lambda: 0.0), interval=1.0)
        bot._see(Joined(7, 1.0, 2.0, 100, "ada"))
        return [repr(bot._next_action()) for _ in range(50)]

    assert actions(1) == actions(1)
    assert actions(1) != actions(2)
    assert {action.partition("(")[0] for action in actions(1)} == {"Chat", "Move", "Attack"}


def test_a_bot_attacks_who_is_nearest():
    bot = Bot("bot", "password", Random(1), RoundTrips(lambda: 0.0), interval=1.0)
    bot.player_id = 1
    for player_id, x in [(1, 5.0), (2, 9.0), (3, 4.0), (4, 50.0)]:
        bot._see(Joined(player_id, x, 5.0, 100, ""))
    assert bot._nearest() == 3
    bot._see(Left(3))
    assert bot._nearest() == 2
    bot._see(Move(4, 5.0, 5.0))
    assert bot._nearest() == 4


def test_percentiles():
    round_trips = RoundTrips(lambda: 0.0, window=100)
    assert round_trips.percentile(0.99) is None
    for milliseconds in [*[9000] * 50, *range(100, 0, -1)]:
        round_trips.add(float(milliseconds))
    assert round_trips.count == 150
    assert [round_trips.percentile(share) for share in (0, 0.01, 0.5, 0.99, 1)] == [1, 1, 50, 99, 100]
    with pytest.raises(ValueError, match="share 1.1"):
        round_trips.percentile(1.1)


def test_a_plan_does_not_show_its_password():
    plan = Plan("127.0.0.1", 9000, ["bot-1"], "drawn at random", seed=1)
    assert repr(plan) == "Plan(1 bots for 127.0.0.1 port 9000, seed 1)"


@pytest.mark.no_sanitizer
async def test_bots_play_in_a_process_of_their_own(table, until, caplog):
    bots = BotProcess(plan_of(table, 3, loop="asyncio"), is_wanted=lambda: True)
    try:
        await until(lambda: bots.report.playing == 3 and bots.report.round_trips > 3, 30)
        next(iter(table.server.sessions)).close("kicked")
        await until(lambda: bots.report.ended == 1, 30)
        assert "has stopped playing: the connection has ended: peer_closed" in caplog.text
        bots._process.kill()
        await until(lambda: bots.report.ended == 3, 30)
        assert "the bots' process has ended with exit code" in caplog.text
    finally:
        await asyncio.to_thread(bots.stop)


@pytest.mark.no_sanitizer
async def test_the_bots_process_ends_when_it_is_told_to(table, until, caplog):
    bots = BotProcess(plan_of(table, 2), is_wanted=lambda: table.server.is_listening)
    await until(lambda: bots.report.playing == 2, 30)
    await table.server.stop()
    await until(lambda: bots.report.ended == 2, 30)
    assert "stopped playing" not in caplog.text  # all end at once, as they should
    await asyncio.to_thread(bots.stop)
    assert bots._process.returncode == 0
    assert "has ended" not in caplog.text
    await asyncio.to_thread(bots.stop)
