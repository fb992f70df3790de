/* A load generator: CONNECTIONS sockets, each with IN_FLIGHT requests of BODY bytes on their way, for SECONDS.
 *
 * Speaks the book's header (id u16, size u16, sequence u32, little-endian). Every reply is checked byte by byte and in
 * order; the first wrong one ends the run with exit code 1. Prints one line of JSON. One thread, epoll, Linux.
 *
 *     loadgen HOST PORT CONNECTIONS IN_FLIGHT BODY SECONDS
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HEADER = 8, PACKET_ID = 1003, BUFFER = 1 << 16, BUCKETS = 40000, BUCKET_NS = 1000 };

struct connection {
    int fd;
    uint32_t number, sent, received; /* sequence numbers: what was sent and what came back so far */
    uint8_t *out;                    /* bytes that the socket did not take yet: at most in_flight packets */
    size_t out_size;
    uint32_t armed;                  /* the events that epoll was told last; 0: none yet */
    uint8_t in[BUFFER];
    size_t in_size;
    uint64_t *sent_at; /* by sequence modulo in_flight, in ns */
};

static int in_flight, body_size, epoll_fd;
static uint64_t packets, histogram[BUCKETS + 1];

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void fail(const char *what)
{
    fprintf(stderr, "loadgen: %s (%s)\n", what, strerror(errno));
    exit(1);
}

static void fill(uint8_t *packet, uint32_t number, uint32_t sequence)
{
    uint16_t id = PACKET_ID, size = (uint16_t)(HEADER + body_size);
    memcpy(packet, &id, 2);
    memcpy(packet + 2, &size, 2);
    memcpy(packet + 4, &sequence, 4);
    for (int at = 0; at < body_size; at++)
        packet[HEADER + at] = (uint8_t)(sequence * 131u + number * 17u + (uint32_t)at);
}

static void flush(struct connection *one)
{
    size_t done = 0;
    while (done < one->out_size) {
        ssize_t sent = send(one->fd, one->out + done, one->out_size - done, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN)
            break;
        if (sent <= 0)
            fail("the server ended a connection while we sent");
        done += (size_t)sent;
    }
    memmove(one->out, one->out + done, one->out_size - done);
    one->out_size -= done;
    struct epoll_event event = {.events = EPOLLIN | (one->out_size ? EPOLLOUT : 0u), .data.ptr = one};
    if (one->armed != event.events) {
        epoll_ctl(epoll_fd, one->armed ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, one->fd, &event);
        one->armed = event.events;
    }
}

static void send_more(struct connection *one)
{
    uint64_t now = now_ns();
    while (one->sent - one->received < (uint32_t)in_flight) {
        one->sent_at[one->sent % (uint32_t)in_flight] = now;
        fill(one->out + one->out_size, one->number, one->sent++);
        one->out_size += (size_t)(HEADER + body_size);
    }
    flush(one);
}

static void check_replies(struct connection *one)
{
    size_t at = 0, size = (size_t)(HEADER + body_size);
    uint8_t expected[BUFFER];
    uint64_t now = now_ns();
    while (one->in_size - at >= size) {
        fill(expected, one->number, one->received);
        if (memcmp(expected, one->in + at, size) != 0) {
            fprintf(stderr, "loadgen: connection %u, reply %u is wrong\n", one->number, one->received);
            exit(1);
        }
        uint64_t bucket = (now - one->sent_at[one->received % (uint32_t)in_flight]) / BUCKET_NS;
        histogram[bucket < BUCKETS ? bucket : BUCKETS]++;
        one->received++;
        packets++;
        at += size;
    }
    memmove(one->in, one->in + at, one->in_size - at);
    one->in_size -= at;
}

static void receive(struct connection *one)
{
    ssize_t got = recv(one->fd, one->in + one->in_size, BUFFER - one->in_size, 0);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0)
        fail("the server ended a connection");
    one->in_size += (size_t)got;
    check_replies(one);
    send_more(one);
}

static struct connection *open_connection(const char *host, int port, uint32_t number)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct connection *one = calloc(1, sizeof *one);
    int on = 1;
    inet_pton(AF_INET, host, &address.sin_addr);
    one->number = number;
    one->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(one->fd, (struct sockaddr *)&address, sizeof address) != 0)
        fail("cannot connect");
    setsockopt(one->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    one->out = malloc((size_t)in_flight * (size_t)(HEADER + body_size));
    one->sent_at = calloc((size_t)in_flight, sizeof *one->sent_at);
    fcntl(one->fd, F_SETFL, O_NONBLOCK);
    return one;
}

static double percentile(double share)
{
    uint64_t wanted = (uint64_t)((double)packets * share), seen = 0;
    for (int bucket = 0; bucket <= BUCKETS; bucket++)
        if ((seen += histogram[bucket]) > wanted)
            return bucket * (double)BUCKET_NS / 1e9;
    return 0;
}

int main(int argc, char **argv)
{
    if (argc != 7) {
        fprintf(stderr, "usage: loadgen HOST PORT CONNECTIONS IN_FLIGHT BODY SECONDS\n");
        return 2;
    }
    int connections = atoi(argv[3]);
    in_flight = atoi(argv[4]);
    body_size = atoi(argv[5]);
    double seconds = atof(argv[6]);
    if (connections < 1 || connections > 60000 || in_flight < 1 || body_size < 0 || HEADER + body_size > 65535) {
        fprintf(stderr, "loadgen: arguments out of range\n");
        return 2;
    }
    epoll_fd = epoll_create1(0);
    for (int number = 0; number < connections; number++) {
        struct connection *one = open_connection(argv[1], atoi(argv[2]), (uint32_t)number);
        send_more(one);
    }
    uint64_t started = now_ns(), ends = started + (uint64_t)(seconds * 1e9);
    struct epoll_event events[256];
    while (now_ns() < ends) {
        int ready = epoll_wait(epoll_fd, events, 256, 100);
        for (int n = 0; n < ready; n++) {
            struct connection *one = events[n].data.ptr;
            if (events[n].events & EPOLLOUT)
                flush(one);
            if (events[n].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                receive(one);
        }
    }
    double took = (double)(now_ns() - started) / 1e9;
    printf("{\"packets\": %llu, \"seconds\": %.6f, \"p50\": %.6f, \"p99\": %.6f}\n", (unsigned long long)packets, took,
           percentile(0.5), percentile(0.99));
    return packets ? 0 : 1;
}
