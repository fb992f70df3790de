"""A chat server: everybody reads what anybody writes. Run it: python chat_server.py"""

import gamenet


class Chat(gamenet.Packet, id=1002):
    message: str = gamenet.char(256)


server = gamenet.Server(idle_timeout=30.0)


@server.on(Chat)
def chat(session: gamenet.Session, packet: Chat) -> None:
    server.sessions.broadcast(packet)


if __name__ == "__main__":
    gamenet.run(server, port=9000)
