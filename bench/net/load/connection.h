/* One connection of the load: opened, logged in, then non-blocking. */
#ifndef LOAD_CONNECTION_H
#define LOAD_CONNECTION_H

#include "wire.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum { IN_SIZE = 1 << 16, LOGIN_SECONDS = 10 };

struct connection {
    int fd;
    uint32_t number;
    uint32_t sent;    /* packets sent so far, the sequence number of the next one */
    uint32_t *heard;  /* packets heard so far, per speaker */
    uint64_t *sent_at; /* ns, by sequence number modulo in_flight */
    uint8_t *out;     /* what the socket did not take yet: at most in_flight packets */
    size_t out_size;
    uint32_t armed;   /* the events that epoll was told last */
    size_t in_size;
    uint8_t in[IN_SIZE];
};

static int connect_to(const char *host, int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct timeval timeout = {.tv_sec = LOGIN_SECONDS};
    int on = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || inet_pton(AF_INET, host, &address.sin_addr) != 1)
        fail("cannot make a socket for %s (%s)", host, strerror(errno));
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0)
        fail("cannot connect (%s)", strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    return fd;
}

/* One packet there and back. When this returns, the server has accepted the connection and speaks with it. */
static void log_in(const struct connection *one)
{
    uint8_t packet[HEADER_SIZE + MAX_BODY_SIZE];
    put_packet(packet, LOGIN_ID, one->number, 0);
    if (send(one->fd, packet, packet_size(), MSG_NOSIGNAL) != (ssize_t)packet_size())
        fail("connection %u: cannot send the login (%s)", one->number, strerror(errno));
    memset(packet, 0, sizeof packet);
    if (recv(one->fd, packet, packet_size(), MSG_WAITALL) != (ssize_t)packet_size())
        fail("connection %u: no reply to the login within %d s", one->number, LOGIN_SECONDS);
    if (!is_packet(packet, LOGIN_ID, one->number, 0))
        fail("connection %u: the reply to the login is wrong", one->number);
}

static void open_connection(struct connection *one, const char *host, int port, uint32_t number)
{
    one->number = number;
    one->fd = connect_to(host, port);
    log_in(one);
    fcntl(one->fd, F_SETFL, O_NONBLOCK);
}

/* Nobody may say a word that was not asked for. */
static void expect_silence(const struct connection *one)
{
    uint8_t byte;
    ssize_t got = one->in_size ? 1 : recv(one->fd, &byte, 1, MSG_DONTWAIT);
    if (got > 0)
        fail("connection %u: the server said more than it was asked for", one->number);
    if (got == 0 || errno != EAGAIN)
        fail("connection %u: the server ended it", one->number);
}

#endif
