/* A bounded ring of pointers: many threads put, one at a time takes. No Python here: tests/models/ runs it under
 * ThreadSanitizer, and tests/models/mailbox.pml is the same algorithm, checked exhaustively. Change both together.
 *
 * A slot is 0 or holds an item. `tail` counts the places that were given away, times 2; its lowest bit is set when the
 * ring is shut, so that nobody can be given a place after that, and how many were is known for good. `head` counts those
 * that are free again, times 2.
 *
 * What stays true:
 *  - tail - head is at most 2 * max_items. A producer reads `tail` first: if it is still the same when the place is
 *    taken, `head` can only have moved on since.
 *  - A place is given to one producer (by the exchange of `tail`), and its slot is 0 then: the taker empties a slot
 *    before it moves `head`, and a producer reads `head` before it writes the slot.
 *  - An item is never without a wake-up: `awake` is set after the slot, and cleared before the slots are looked at for
 *    the last time. Both are exchanges: either the taker's comes second, and sees the slot; or the producer's does, sees
 *    0, and wakes. A producer that was overtaken between its place and its slot holds up those behind it until its slot
 *    is set, and then wakes for all of them.
 *
 * Numbers wrap around: only differences and low bits are looked at.
 */
#ifndef GAMENET_RING_H
#define GAMENET_RING_H

#include <stddef.h>
#include <stdlib.h>

#include "atomics.h"

enum { GAMENET_CACHE_LINE = 64 };

/* Each group of words has a cache line of its own: what producers write, what the taker writes, what both do. */
typedef struct {
    gamenet_word *slots; /* owned */
    uintptr_t mask;      /* slots - 1; a power of 2 */
    intptr_t limit;      /* of tail - head: 2 * max_items */
    char space_1[GAMENET_CACHE_LINE];
    gamenet_word tail;
    char space_2[GAMENET_CACHE_LINE];
    gamenet_word head;
    char space_3[GAMENET_CACHE_LINE];
    gamenet_word awake;   /* 1: a wake-up is on its way, or the taker will come again without one */
    gamenet_word refused; /* puts */
} gamenet_ring;

/* 0, or -1 without memory. `max_items` is from 1 to 2**28. */
static inline int gamenet_ring_open(gamenet_ring *ring, size_t max_items)
{
    size_t slots = 1;
    while (slots < max_items)
        slots *= 2;
    ring->slots = (gamenet_word *)calloc(slots, sizeof(gamenet_word)); /* pages are touched when they are used */
    ring->mask = slots - 1;
    ring->limit = 2 * (intptr_t)max_items;
    ring->tail = ring->head = ring->awake = ring->refused = 0;
    return ring->slots == NULL ? -1 : 0;
}

/* Nobody uses it any more, and it is empty. */
static inline void gamenet_ring_free(gamenet_ring *ring)
{
    free((void *)ring->slots);
    ring->slots = NULL;
}

/* Places given away and not free again. */
static inline size_t gamenet_ring_waiting(gamenet_ring *ring)
{
    uintptr_t head = gamenet_load(&ring->head); /* first: so the difference is never below 0 */
    return (size_t)(((gamenet_load(&ring->tail) & ~(uintptr_t)1) - head) / 2);
}

static inline int gamenet_ring_is_shut(gamenet_ring *ring)
{
    return (int)(gamenet_load(&ring->tail) & 1);
}

static inline size_t gamenet_ring_refused(gamenet_ring *ring)
{
    return (size_t)gamenet_load(&ring->refused);
}

static inline void gamenet_ring_count_refused(gamenet_ring *ring)
{
    uintptr_t refused;
    do
        refused = gamenet_load(&ring->refused);
    while (!gamenet_replace(&ring->refused, refused, refused + 1));
}

/* Any thread. 0: refused and counted, for the ring is full or shut; 1: taken in; 2: taken in, and the caller has to wake
 * the taker. `item` is not 0. */
static inline int gamenet_ring_put(gamenet_ring *ring, void *item)
{
    uintptr_t tail;
    do {
        tail = gamenet_load(&ring->tail); /* before head */
        /* with a tail that has moved on meanwhile the difference is too small, also below 0, but never too large */
        if (tail & 1 || (intptr_t)(tail - gamenet_load(&ring->head)) >= ring->limit) {
            gamenet_ring_count_refused(ring);
            return 0;
        }
    } while (!gamenet_replace(&ring->tail, tail, tail + 2));
    gamenet_store(&ring->slots[(tail >> 1) & ring->mask], (uintptr_t)item);
    return gamenet_exchange(&ring->awake, 1) ? 1 : 2;
}

/* The taker: whether the next slot holds an item. */
static inline int gamenet_ring_has_next(gamenet_ring *ring)
{
    return gamenet_load(&ring->slots[(ring->head >> 1) & ring->mask]) != 0;
}

/* The taker. The next item, or NULL: there is none, or its producer has not come as far as its slot. */
static inline void *gamenet_ring_take(gamenet_ring *ring)
{
    uintptr_t head = ring->head; /* written by takers only */
    gamenet_word *slot = &ring->slots[(head >> 1) & ring->mask];
    uintptr_t item = gamenet_load(slot);
    if (item) {
        gamenet_store(slot, 0);
        gamenet_store(&ring->head, head + 2);
    }
    return (void *)item;
}

/* The taker, or a producer whose wake-up failed: the next put wakes. The taker has to look once more after this. */
static inline void gamenet_ring_sleep(gamenet_ring *ring)
{
    gamenet_exchange(&ring->awake, 0);
}

/* The taker: it will come again by itself. */
static inline void gamenet_ring_stay_awake(gamenet_ring *ring)
{
    gamenet_exchange(&ring->awake, 1);
}

/* Any thread: nothing more is taken in. */
static inline void gamenet_ring_shut(gamenet_ring *ring)
{
    uintptr_t tail;
    do
        tail = gamenet_load(&ring->tail);
    while (!gamenet_replace(&ring->tail, tail, tail | 1));
}

#endif
