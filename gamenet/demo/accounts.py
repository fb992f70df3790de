"""Who may play: accounts in SQLite, their passwords hashed with scrypt (RFC 7914).

What stays true: no password is kept or logged; the event loop never waits for a hash or for the database; an unknown
user costs the same work as a wrong password; at most `max_checks` passwords are checked at a time.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from gamenet.demo.packets import Login
from gamenet.errors import AuthenticationError, ErrorCode, GameNetError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS accounts (
    id INTEGER PRIMARY KEY, user_id TEXT NOT NULL UNIQUE,
    salt BLOB NOT NULL, hash BLOB NOT NULL, n INTEGER NOT NULL, r INTEGER NOT NULL, p INTEGER NOT NULL
)"""
_FIND = "SELECT id, salt, hash, n, r, p FROM accounts WHERE user_id = ?"
_SAVE = """
INSERT INTO accounts (user_id, salt, hash, n, r, p) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (user_id) DO UPDATE SET salt = excluded.salt, hash = excluded.hash, n = excluded.n, r = excluded.r,
p = excluded.p"""

_MAX_HASH_MEMORY = 2**28  # bytes; whatever cost a damaged row states
_LOCK_TIMEOUT = 2.0  # seconds to wait for another program that writes to the same file


class AccountsError(GameNetError):
    """The database failed, or holds what is no account."""

    code = ErrorCode.DATABASE_ERROR


@dataclass(frozen=True, slots=True)
class Cost:
    """scrypt's cost: `n` and `r` set the memory (128 * n * r bytes), `p` how often it is gone through."""

    n: int = 2**14
    r: int = 8
    p: int = 5


OWASP_COST = Cost()
"""16 MiB and about 0.2 s: one of the settings of OWASP's Password Storage Cheat Sheet."""

RANDOM_PASSWORD_COST = Cost(n=2**4, p=1)
"""For passwords that nobody can guess, because a program drew them: a dear hash would protect nothing."""


@dataclass(frozen=True, slots=True)
class PasswordHash:
    """What is kept of a password."""

    salt: bytes
    hash: bytes
    cost: Cost

    @classmethod
    def of(cls, password: str, cost: Cost) -> PasswordHash:
        """Hash `password` with a new random salt."""
        salt = os.urandom(16)
        return cls(salt, _scrypt(password, salt, cost), cost)

    @classmethod
    def of_nobody(cls, cost: Cost) -> PasswordHash:
        """The hash of no password, which costs the same to compare with."""
        return cls(os.urandom(16), os.urandom(32), cost)

    def matches(self, password: str) -> bool:
        """Whether this is the password's hash; takes as long for either answer."""
        return hmac.compare_digest(self.hash, _scrypt(password, self.salt, self.cost))


class Accounts:
    """The accounts in the database file `path`, or in memory. Any thread may use it."""

    def __init__(self, path: str = ":memory:", *, cost: Cost = OWASP_COST, max_checks: int = 2) -> None:
        self._cost = cost
        self._nobody = PasswordHash.of_nobody(cost)
        self._free_checks = asyncio.Semaphore(max_checks)
        self._lock = threading.Lock()  # one connection (":memory:" is gone with it), used by one thread at a time
        with _database_errors():
            self._database = sqlite3.connect(path, timeout=_LOCK_TIMEOUT, check_same_thread=False)
            self._database.execute(_SCHEMA)

    def close(self) -> None:
        """Close the database; every check from now on raises `AccountsError`."""
        with self._lock:
            self._database.close()

    def __enter__(self) -> Accounts:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def set_password(self, user_id: str, password: str) -> None:
        """Create the account, or give it this password. `ValueError` for a name or password that cannot be.

        Hashes here and now: not for the thread of an event loop that has players.
        """
        self._save([user_id], password, self._cost)

    def set_random_password(self, user_ids: Iterable[str], password: str) -> None:
        """As `set_password` for many accounts of programs, which share one password drawn at random.

        They share the salt and the hash too: one cheap hash in all, where a dear one each would take seconds.
        """
        self._save(user_ids, password, RANDOM_PASSWORD_COST)

    async def check(self, user_id: str, password: str) -> int:
        """The id of the account. `AuthenticationError` if name or password is wrong, `AccountsError` if the database
        failed.
        """
        await self._free_checks.acquire()
        checking = asyncio.ensure_future(asyncio.to_thread(self._check, user_id, password))
        checking.add_done_callback(self._checked)
        # not awaited itself: a thread cannot be cancelled, and its place is free only when it has ended
        await asyncio.wait([checking])
        return checking.result()

    def _checked(self, checking: asyncio.Future[int]) -> None:
        self._free_checks.release()
        if not checking.cancelled():
            checking.exception()  # seen, also if the player has gone and nobody asks

    def _check(self, user_id: str, password: str) -> int:
        found = self._find(user_id)
        account_id, known = found or (0, self._nobody)
        with _database_errors():  # a damaged row has a cost or a hash that cannot be
            is_right = known.matches(password)
        if not found or not is_right:
            raise AuthenticationError("wrong name or password")
        return account_id

    def _find(self, user_id: str) -> tuple[int, PasswordHash] | None:
        with _database_errors(), self._lock:
            row = self._database.execute(_FIND, (user_id,)).fetchone()
        if row is None:
            return None
        account_id, salt, hashed, n, r, p = row
        return account_id, PasswordHash(salt, hashed, Cost(n, r, p))

    def _save(self, user_ids: Iterable[str], password: str, cost: Cost) -> None:
        names = [_checked_name(user_id) for user_id in user_ids]
        hashed = PasswordHash.of(_checked_password(password), cost)
        rows = [(name, hashed.salt, hashed.hash, cost.n, cost.r, cost.p) for name in names]
        with _database_errors(), self._lock, self._database:
            self._database.executemany(_SAVE, rows)


def _scrypt(password: str, salt: bytes, cost: Cost) -> bytes:
    costs = {"n": cost.n, "r": cost.r, "p": cost.p, "maxmem": _MAX_HASH_MEMORY}
    return hashlib.scrypt(password.encode(), salt=salt, dklen=32, **costs)


def _checked_name(user_id: str) -> str:
    Login(user_id, "")  # it fits the wire, or ValueError
    if not user_id or not user_id.isprintable() or ":" in user_id:  # a colon ends the name in a chat line
        raise ValueError(f"{user_id!r} is no name: it must not be empty, and not hold ':' or control characters")
    return user_id


def _checked_password(password: str) -> str:
    if not password:
        raise ValueError("the password is empty")
    Login("", password)
    return password


@contextmanager
def _database_errors() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, TypeError, ValueError, OverflowError, MemoryError) as error:
        raise AccountsError(f"the accounts cannot be used: {error}") from error
