/* The packets of the load: what is sent, and what every reply must be, byte by byte.
 *
 * A header as in the book (id u16, size u16, sequence u32, little-endian, as is every machine this runs on), then a
 * body: who speaks (u32), then bytes that depend on the speaker and the sequence number.
 */
#ifndef LOAD_WIRE_H
#define LOAD_WIRE_H

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LOGIN_ID = 1001, CHAT_ID = 1002, MOVE_ID = 1003 };
enum { HEADER_SIZE = 8, SPEAKER_SIZE = 4, MAX_BODY_SIZE = 8000 };

struct wire {
    uint32_t body_size;
    uint8_t pattern[256 + MAX_BODY_SIZE]; /* 0, 1, ... 255, 0, 1, ...: a body is a slice of it */
};

static struct wire wire;

static void wire_init(uint32_t body_size)
{
    wire.body_size = body_size;
    for (size_t at = 0; at < sizeof wire.pattern; at++)
        wire.pattern[at] = (uint8_t)at;
}

__attribute__((noreturn, format(printf, 1, 2))) static void fail(const char *format, ...)
{
    va_list values;
    va_start(values, format);
    fputs("loadgen: ", stderr);
    vfprintf(stderr, format, values);
    fputc('\n', stderr);
    va_end(values);
    exit(1);
}

static size_t packet_size(void)
{
    return HEADER_SIZE + wire.body_size;
}

static uint64_t header_of(uint16_t id, uint32_t sequence)
{
    return id | (uint64_t)packet_size() << 16 | (uint64_t)sequence << 32;
}

static const uint8_t *body_of(uint32_t speaker, uint32_t sequence)
{
    return wire.pattern + ((sequence * 131u + speaker * 17u) & 255u);
}

static void put_packet(uint8_t *out, uint16_t id, uint32_t speaker, uint32_t sequence)
{
    uint64_t header = header_of(id, sequence);
    memcpy(out, &header, HEADER_SIZE);
    memcpy(out + HEADER_SIZE, &speaker, SPEAKER_SIZE);
    memcpy(out + HEADER_SIZE + SPEAKER_SIZE, body_of(speaker, sequence), wire.body_size - SPEAKER_SIZE);
}

static uint32_t speaker_of(const uint8_t *packet)
{
    uint32_t speaker;
    memcpy(&speaker, packet + HEADER_SIZE, SPEAKER_SIZE);
    return speaker;
}

static bool is_packet(const uint8_t *in, uint16_t id, uint32_t speaker, uint32_t sequence)
{
    uint64_t header = header_of(id, sequence);
    return memcmp(in, &header, HEADER_SIZE) == 0 && speaker_of(in) == speaker
           && memcmp(in + HEADER_SIZE + SPEAKER_SIZE, body_of(speaker, sequence), wire.body_size - SPEAKER_SIZE) == 0;
}

#endif
