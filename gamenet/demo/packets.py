"""The wire of the demo: every packet, as a C struct under `#pragma pack(1)` behind the book's 8-byte header (9.2.1).

Numbers are little-endian; a `char[]` ends at its first NUL or at its size. "To all" is everybody in the arena.

      id  struct                                                      who sends it
    1001  LOGIN    char user_id[32]; char password[64]                client; answered by LOGIN_REPLY
    1002  CHAT     char message[256]                                  client; to all as "name: message", cut to fit
    1003  MOVE     u32 player_id; f32 x, y                            client; to all with the place it really got
    1004  ATTACK   u32 attacker_id, target_id; u16 damage             client; to all with the damage done
    1101  LOGIN_REPLY  u32 code, player_id                            server; code is an ErrorCode, 0 is success
    1102  ERROR    u32 code; u16 refused_id; char text[64]            server; the packet of that id was refused
    1103  JOINED   u32 player_id; f32 x, y; u16 hit_points; char name[32]  server; after login once for each player
    1104  LEFT     u32 player_id                                      server, to all
    1105  HEALTH   u32 player_id; u16 hit_points                      server, to all

Every packet of a client is answered to itself under its own sequence number: by the packet that goes to all, or by
ERROR. Everything else carries sequence 0. `player_id`, `attacker_id` and `damage` of a client are not looked at: the
server knows who sent them. A player at 0 hit points is back at once: HEALTH 0, then MOVE and HEALTH of the new life.
"""

from gamenet.fields import char, f32, u16, u32
from gamenet.packets import Packet


class Login(Packet, id=1001):
    user_id: str = char(32)
    password: str = char(64, secret=True)


class Chat(Packet, id=1002):
    message: str = char(256)


class Move(Packet, id=1003):
    player_id: u32
    x: f32
    y: f32


class Attack(Packet, id=1004):
    attacker_id: u32
    target_id: u32
    damage: u16


class LoginReply(Packet, id=1101):
    code: u32
    player_id: u32


class ErrorReply(Packet, id=1102):
    code: u32
    refused_id: u16
    text: str = char(64)


class Joined(Packet, id=1103):
    player_id: u32
    x: f32
    y: f32
    hit_points: u16
    name: str = char(32)


class Left(Packet, id=1104):
    player_id: u32


class Health(Packet, id=1105):
    player_id: u32
    hit_points: u16


FROM_SERVER = (Chat, Move, Attack, LoginReply, ErrorReply, Joined, Left, Health)
"""What a client may receive: `packets=` of `gamenet.connect()`."""
