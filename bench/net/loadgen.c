/* A load generator that checks every byte; the first wrong, missing, doubled or reordered packet ends it with exit
 * code 1. One thread, epoll, Linux.
 *
 *     loadgen echo|chat|idle HOST PORT CONNECTIONS SENDERS IN_FLIGHT BODY_SIZE SECONDS
 *
 * Every connection first logs in: its packet 1001 comes back to it. Then:
 *   echo  the first SENDERS connections keep IN_FLIGHT packets 1003 on their way; each comes back to its sender
 *   chat  they send packets 1002; each comes back to every connection, its sender's own completes its flight
 *   idle  nothing more is sent; prints a line once all are logged in, and waits until standard input ends
 * echo and chat print one line of JSON: the packets that arrived within SECONDS, and what round trips took.
 */
#define _GNU_SOURCE
#include "load/idle.h"
#include "load/talk.h"

int main(int argc, char **argv)
{
    if (argc != 9)
        fail("usage: loadgen echo|chat|idle HOST PORT CONNECTIONS SENDERS IN_FLIGHT BODY_SIZE SECONDS");
    const char *kind = argv[1], *host = argv[2];
    int port = atoi(argv[3]), connections = atoi(argv[4]), senders = atoi(argv[5]), in_flight = atoi(argv[6]);
    int body_size = atoi(argv[7]);
    if (connections < 1 || connections > 60000 || senders < 0 || senders > connections || in_flight < 1)
        fail("arguments out of range");
    if (body_size < SPEAKER_SIZE || body_size > MAX_BODY_SIZE)
        fail("a body of %d bytes is not between %d and %d", body_size, SPEAKER_SIZE, MAX_BODY_SIZE);
    wire_init((uint32_t)body_size);
    if (strcmp(kind, "idle") == 0) {
        run_idle((uint32_t)connections, host, port);
        return 0;
    }
    struct talk talk = {
        .is_chat = strcmp(kind, "chat") == 0,
        .connections = (uint32_t)connections,
        .senders = (uint32_t)senders,
        .in_flight = (uint32_t)in_flight,
        .seconds = atof(argv[8]),
    };
    run_talk(&talk, host, port);
    return 0;
}
