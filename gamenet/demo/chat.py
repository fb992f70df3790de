"""The chat line: the book's CHAT has only `message[256]`, so who says it stands inside the message.

What stays true: a line fits the packet and is never cut inside a character; a name holds no colon (see `accounts`),
so nobody can speak in another's name.
"""

from __future__ import annotations

from gamenet.demo.packets import Chat
from gamenet.demo.world import Refused

_LINE_SIZE = Chat.body_size_of()


def chat_line(name: str, message: str) -> str:
    """`"name: message"` in at most 256 bytes of UTF-8. `Refused` if there is no message, or one that could steer
    the terminal of those who read it.
    """
    if not message.strip():
        raise Refused("there is no message")
    if any(_is_control(character) for character in message):
        raise Refused("a message must not hold control characters")
    return f"{name}: {message}".encode()[:_LINE_SIZE].decode("utf-8", "ignore")


def _is_control(character: str) -> bool:
    return character < " " or "\x7f" <= character <= "\x9f" or character in "\u2028\u2029"
