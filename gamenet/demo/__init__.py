"""The book's game as a real, small server: log in, chat, walk, fight (9.2.4).

Each module is one idea: `packets` the wire, `accounts` who may play, `world` the rules, `chat` the chat line, `game`
the server's handlers, `bots` and `fleet` players that are programs. `gamenet demo` runs it.
"""

from gamenet.demo.accounts import Accounts, AccountsError, Cost
from gamenet.demo.game import Game
from gamenet.demo.world import Player, Refused, World

__all__ = ["Accounts", "AccountsError", "Cost", "Game", "Player", "Refused", "World"]
