/* Connections that talk for some seconds: echo (every packet comes back to its sender) and chat (to everybody).
 *
 * What stays true: a connection hears every speaker's packets exactly once and in order, or the run ends with an
 * error. A sender has at most in_flight packets that it has not heard itself.
 */
#ifndef LOAD_TALK_H
#define LOAD_TALK_H

#include "clock.h"
#include "connection.h"

#include <sys/epoll.h>

enum { EVENTS = 256, DRAIN_SECONDS = 10, SILENCE_MS = 5 };

struct talk {
    bool is_chat;
    uint32_t connections, senders, in_flight;
    double seconds;
    struct connection **all;
    int epoll_fd;
    bool is_draining; /* nothing is sent or counted any more; what is missing still has to come */
    uint64_t heard, wanted;
};

static uint16_t talk_id(const struct talk *talk)
{
    return talk->is_chat ? CHAT_ID : MOVE_ID;
}

static void arm(const struct talk *talk, struct connection *one)
{
    struct epoll_event event = {.events = EPOLLIN | (one->out_size ? EPOLLOUT : 0u), .data.ptr = one};
    if (one->armed == event.events)
        return;
    if (epoll_ctl(talk->epoll_fd, one->armed ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, one->fd, &event) != 0)
        fail("epoll_ctl (%s)", strerror(errno));
    one->armed = event.events;
}

static void flush(const struct talk *talk, struct connection *one)
{
    size_t done = 0;
    while (done < one->out_size) {
        ssize_t sent = send(one->fd, one->out + done, one->out_size - done, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN)
            break;
        if (sent <= 0)
            fail("connection %u: the server ended it while we sent (%s)", one->number, strerror(errno));
        done += (size_t)sent;
    }
    memmove(one->out, one->out + done, one->out_size - done);
    one->out_size -= done;
    arm(talk, one);
}

static uint32_t heard_from(const struct talk *talk, const struct connection *one, uint32_t speaker)
{
    return one->heard[talk->is_chat ? speaker : 0];
}

static void send_more(struct talk *talk, struct connection *one, uint64_t now)
{
    if (one->number >= talk->senders || talk->is_draining)
        return;
    while (one->sent - heard_from(talk, one, one->number) < talk->in_flight) {
        one->sent_at[one->sent % talk->in_flight] = now;
        put_packet(one->out + one->out_size, talk_id(talk), one->number, one->sent++);
        one->out_size += packet_size();
        talk->wanted += talk->is_chat ? talk->connections : 1;
    }
    flush(talk, one);
}

static void hear(struct talk *talk, struct connection *one, const uint8_t *packet, uint64_t now)
{
    uint32_t speaker = speaker_of(packet);
    if (talk->is_chat ? speaker >= talk->senders : speaker != one->number)
        fail("connection %u: heard %u, who does not speak here", one->number, speaker);
    uint32_t *heard = &one->heard[talk->is_chat ? speaker : 0];
    if (*heard == talk->all[speaker]->sent || !is_packet(packet, talk_id(talk), speaker, *heard))
        fail("connection %u: wrong bytes where packet %u of %u was due", one->number, *heard, speaker);
    if (speaker == one->number && !talk->is_draining)
        count_round_trip(now - one->sent_at[*heard % talk->in_flight]);
    ++*heard;
    talk->heard++;
}

static void receive(struct talk *talk, struct connection *one)
{
    ssize_t got = recv(one->fd, one->in + one->in_size, IN_SIZE - one->in_size, 0);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0)
        fail("connection %u: the server ended it", one->number);
    one->in_size += (size_t)got;
    size_t at = 0, size = packet_size();
    uint64_t now = now_ns();
    for (; one->in_size - at >= size; at += size)
        hear(talk, one, one->in + at, now);
    memmove(one->in, one->in + at, one->in_size - at);
    one->in_size -= at;
    send_more(talk, one, now);
}

static void turn(struct talk *talk)
{
    struct epoll_event events[EVENTS];
    int ready = epoll_wait(talk->epoll_fd, events, EVENTS, 100);
    for (int n = 0; n < ready; n++) {
        struct connection *one = events[n].data.ptr;
        if (events[n].events & EPOLLOUT)
            flush(talk, one);
        if (events[n].events & ~(uint32_t)EPOLLOUT)
            receive(talk, one);
    }
}

static void open_all(struct talk *talk, const char *host, int port)
{
    talk->epoll_fd = epoll_create1(0);
    talk->all = calloc(talk->connections, sizeof *talk->all);
    for (uint32_t number = 0; number < talk->connections; number++) {
        struct connection *one = talk->all[number] = calloc(1, sizeof *one);
        one->heard = calloc(talk->is_chat ? talk->senders : 1, sizeof *one->heard);
        one->sent_at = calloc(talk->in_flight, sizeof *one->sent_at);
        one->out = malloc(talk->in_flight * packet_size());
        open_connection(one, host, port, number);
        arm(talk, one);
    }
}

/* Everything that was sent has to come, and nothing else. */
static void drain(struct talk *talk)
{
    uint64_t ends = now_ns() + DRAIN_SECONDS * 1000000000ull;
    talk->is_draining = true;
    while (talk->heard < talk->wanted) {
        if (now_ns() > ends)
            fail("%llu packets never came", (unsigned long long)(talk->wanted - talk->heard));
        turn(talk);
    }
    usleep(SILENCE_MS * 1000);
    for (uint32_t number = 0; number < talk->connections; number++)
        expect_silence(talk->all[number]);
}

static void run_talk(struct talk *talk, const char *host, int port)
{
    open_all(talk, host, port);
    uint64_t waited = waited_ns(), started = now_ns(), ends = started + (uint64_t)(talk->seconds * 1e9);
    for (uint32_t number = 0; number < talk->senders; number++)
        send_more(talk, talk->all[number], now_ns());
    while (now_ns() < ends)
        turn(talk);
    double took = (double)(now_ns() - started) / 1e9;
    uint64_t packets = talk->heard;
    waited = waited_ns() - waited;
    drain(talk);
    if (!packets)
        fail("not one packet came within %.1f s", talk->seconds);
    printf("{\"packets\": %llu, \"seconds\": %.6f, \"waited\": %.6f, \"p50\": %.6f, \"p99\": %.6f}\n",
           (unsigned long long)packets, took, (double)waited / 1e9, percentile(0.5), percentile(0.99));
}

#endif
