/* The yardstick: what a C programmer writes by hand. One thread, epoll (level-triggered), no library.
 *
 * Packets have the book's header (id u16, size u16, sequence u32, little-endian). Each is reassembled, its id looked up
 * in a table, its handler called through a pointer; what handlers append for a connection leaves in one send: replies
 * after the recv that brought the packets, broadcasts at the end of the turn. Prints its port, serves until killed.
 *
 * What stays true: a connection owns memory only while half a packet waits in it or the socket takes no more; it is
 * not read from while replies wait. `inbox` serves all connections: an incomplete packet is moved out of it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LOGIN_ID = 1001, CHAT_ID = 1002, MOVE_ID = 1003, IDS = 65536 };
enum { HEADER_SIZE = 8, MAX_PACKET_SIZE = 8192, RECV_SIZE = 65536, EVENTS = 256 };
enum { FIRST_OUT_SIZE = 16384, MAX_OUT_SIZE = 1 << 20 /* a receiver this slow is ended */ };

struct header {
    uint16_t id, size;
    uint32_t sequence;
};

struct out {
    struct out *next; /* in the list of spare ones */
    size_t used, room;
    uint8_t *bytes;
};

struct connection {
    int fd;
    size_t place;           /* in `connections` */
    uint32_t armed;         /* the events that epoll was told last */
    bool in_turn;           /* listed in `to_flush` */
    uint8_t *tail;          /* the first bytes of a packet whose rest has not come; NULL if none */
    size_t tail_size;
    struct out *out;        /* NULL if nothing waits to be sent */
    struct connection *next_in_turn, *next_gone;
};

typedef void handler(struct connection *from, const struct header *header, const uint8_t *body);

static handler *handlers[IDS];
static struct connection **connections, *to_flush, *gone;
static size_t connection_count, connection_room;
static struct out *spare_outs;
static uint8_t inbox[MAX_PACKET_SIZE + RECV_SIZE];
static int epoll_fd;

static void *need(void *memory)
{
    if (memory == NULL) {
        fputs("raw_epoll: out of memory\n", stderr);
        exit(1);
    }
    return memory;
}

/* -- sending */

static uint8_t *reserve(struct connection *to, size_t size)
{
    struct out *out = to->out;
    if (out == NULL) {
        if ((out = spare_outs) != NULL) {
            spare_outs = out->next;
        } else {
            out = need(calloc(1, sizeof *out));
            out->bytes = need(malloc(out->room = FIRST_OUT_SIZE));
        }
        to->out = out;
    }
    if (out->room - out->used < size) {
        while (out->room - out->used < size)
            out->room *= 2;
        out->bytes = need(realloc(out->bytes, out->room));
    }
    uint8_t *start = out->bytes + out->used;
    out->used += size;
    return start;
}

static void append(struct connection *to, const struct header *header, const uint8_t *body)
{
    uint8_t *packet = reserve(to, header->size);
    memcpy(packet, header, HEADER_SIZE);
    memcpy(packet + HEADER_SIZE, body, header->size - HEADER_SIZE);
}

static void release_out(struct connection *one)
{
    struct out *out = one->out;
    if (out == NULL)
        return;
    out->used = 0;
    out->next = spare_outs;
    spare_outs = out;
    one->out = NULL;
}

static void end(struct connection *one)
{
    if (one->fd < 0)
        return;
    close(one->fd);
    one->fd = -1;
    connections[one->place] = connections[--connection_count];
    connections[one->place]->place = one->place;
    release_out(one);
    free(one->tail);
    one->tail = NULL;
    one->next_gone = gone; /* `to_flush` may hold it: freed when the turn is over */
    gone = one;
}

static void arm(struct connection *one)
{
    struct epoll_event event = {.events = one->out == NULL ? EPOLLIN : EPOLLOUT, .data.ptr = one};
    if (one->armed == event.events)
        return;
    epoll_ctl(epoll_fd, one->armed ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, one->fd, &event);
    one->armed = event.events;
}

static void flush(struct connection *one)
{
    struct out *out = one->out;
    if (out == NULL || one->fd < 0)
        return;
    ssize_t sent = send(one->fd, out->bytes, out->used, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) {
        end(one);
        return;
    }
    size_t done = sent < 0 ? 0 : (size_t)sent;
    if (done == out->used) {
        release_out(one);
    } else {
        memmove(out->bytes, out->bytes + done, out->used - done);
        out->used -= done;
    }
    if (one->out != NULL && one->out->used > MAX_OUT_SIZE)
        end(one);
    else
        arm(one);
}

static void flush_turn(void)
{
    for (struct connection *one = to_flush; one != NULL; one = one->next_in_turn) {
        one->in_turn = false;
        flush(one);
    }
    to_flush = NULL;
}

/* -- handlers */

static void reply(struct connection *from, const struct header *header, const uint8_t *body)
{
    append(from, header, body);
}

static void broadcast(struct connection *from, const struct header *header, const uint8_t *body)
{
    (void)from;
    for (size_t n = 0; n < connection_count; n++) {
        struct connection *to = connections[n];
        append(to, header, body);
        if (!to->in_turn) {
            to->in_turn = true;
            to->next_in_turn = to_flush;
            to_flush = to;
        }
    }
}

/* -- receiving */

/* Call the handlers of all whole packets; returns the bytes they took, -1 for a size that no packet has. */
static ssize_t dispatch(struct connection *from, const uint8_t *data, size_t size)
{
    struct header header;
    size_t at = 0;
    while (size - at >= HEADER_SIZE) {
        memcpy(&header, data + at, HEADER_SIZE);
        if (header.size < HEADER_SIZE || header.size > MAX_PACKET_SIZE)
            return -1;
        if (header.size > size - at)
            break;
        handler *call = handlers[header.id];
        if (call != NULL)
            call(from, &header, data + at + HEADER_SIZE);
        at += header.size;
    }
    return (ssize_t)at;
}

static void keep_tail(struct connection *one, const uint8_t *data, size_t size)
{
    if (size && one->tail == NULL)
        one->tail = need(malloc(MAX_PACKET_SIZE));
    if (size)
        memcpy(one->tail, data, size);
    one->tail_size = size;
    if (!size) {
        free(one->tail);
        one->tail = NULL;
    }
}

static void receive(struct connection *one)
{
    size_t size = one->tail_size;
    ssize_t got = recv(one->fd, inbox + size, RECV_SIZE, 0);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0) {
        end(one);
        return;
    }
    if (size)
        memcpy(inbox, one->tail, size);
    size += (size_t)got;
    ssize_t taken = dispatch(one, inbox, size);
    if (taken < 0) {
        end(one);
        return;
    }
    keep_tail(one, inbox + taken, size - (size_t)taken);
    if (!one->in_turn)
        flush(one);
}

/* -- connections */

static void accept_all(int listener)
{
    int fd, on = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (connection_count == connection_room) {
            connection_room = connection_room ? connection_room * 2 : 64;
            connections = need(realloc(connections, connection_room * sizeof(struct connection *)));
        }
        struct connection *one = need(calloc(1, sizeof *one));
        one->fd = fd;
        one->place = connection_count;
        connections[connection_count++] = one;
        arm(one);
    }
}

static int listen_on(const char *host)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    inet_pton(AF_INET, host, &address.sin_addr);
    if (bind(listener, (struct sockaddr *)&address, size) != 0 || listen(listener, 1024) != 0) {
        perror("raw_epoll: cannot listen");
        exit(1);
    }
    getsockname(listener, (struct sockaddr *)&address, &size);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return listener;
}

static void turn(int listener)
{
    struct epoll_event events[EVENTS];
    int ready = epoll_wait(epoll_fd, events, EVENTS, -1);
    for (int n = 0; n < ready; n++) {
        struct connection *one = events[n].data.ptr;
        if (one == NULL)
            accept_all(listener);
        else if (events[n].events & EPOLLOUT)
            flush(one);
        else
            receive(one);
    }
    flush_turn();
    while (gone != NULL) {
        struct connection *one = gone;
        gone = one->next_gone;
        free(one);
    }
}

int main(void)
{
    handlers[LOGIN_ID] = handlers[MOVE_ID] = reply;
    handlers[CHAT_ID] = broadcast;
    epoll_fd = epoll_create1(0);
    int listener = listen_on("127.0.0.1");
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &event);
    for (;;)
        turn(listener);
}
