/* The mailbox's ring between real threads, without Python: what its memory orders promise, looked at by ThreadSanitizer.
 *
 * 4 producers start at once and put numbered items; the taker sleeps on a semaphore as the loop does on its wake-ups, and
 * halfway, in every second round, another thread closes. The ring's own numbers wrap around meanwhile. Each item is memory
 * of its own, written before it is put, read and freed after it is taken. Says what is wrong and ends with 1.
 */
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>

#include "ring.h"

enum { PRODUCERS = 4, LIMIT = 7 };

typedef struct {
    int producer;
    long number;
} item_t;

static gamenet_ring ring;
static sem_t bell;
static pthread_barrier_t barrier;
static pthread_mutex_t takers = PTHREAD_MUTEX_INITIALIZER; /* the critical section of mailbox.pyx */
static long items_per_producer;
static uintptr_t start; /* of the ring's numbers: they wrap around after half of the items */
static long accepted[PRODUCERS], next_number[PRODUCERS], taken, given_back;
static int failed;

static void fail(const char *what, long a, long b)
{
    fprintf(stderr, "%s: %ld, %ld\n", what, a, b);
    failed = 1;
}

static void *produce(void *argument)
{
    int id = (int)(intptr_t)argument;
    pthread_barrier_wait(&barrier);
    for (long number = 0; number < items_per_producer; number++) {
        item_t *item = malloc(sizeof *item);
        int outcome;
        item->producer = id;
        item->number = number;
        while (!(outcome = gamenet_ring_put(&ring, item)) && !gamenet_ring_is_shut(&ring))
            sched_yield();
        if (!outcome) {
            free(item);
            break;
        }
        accepted[id]++;
        if (outcome == 2)
            sem_post(&bell);
    }
    return NULL;
}

/* With `takers`. 0: there was none. */
static int take_one(long *count)
{
    item_t *item = gamenet_ring_take(&ring);
    if (item == NULL)
        return 0;
    if (item->number != next_number[item->producer])
        fail("out of order", item->number, next_number[item->producer]);
    next_number[item->producer] = item->number + 1;
    free(item);
    ++*count;
    return 1;
}

/* As Mailbox.take(). */
static int take(void)
{
    int count = 0;
    pthread_mutex_lock(&takers);
    if (gamenet_ring_waiting(&ring) > (size_t)ring.limit / 2)
        fail("too many wait", (long)gamenet_ring_waiting(&ring), ring.limit / 2);
    if (!gamenet_ring_has_next(&ring)) {
        gamenet_ring_sleep(&ring);
        if (gamenet_ring_has_next(&ring))
            gamenet_ring_stay_awake(&ring);
    }
    while (count < LIMIT && take_one(&taken))
        count++;
    pthread_mutex_unlock(&takers);
    return count;
}

static void *consume(void *argument)
{
    for (;;) {
        sem_wait(&bell);
        while (take())
            ;
        if (gamenet_load((gamenet_word *)argument))
            return NULL;
    }
}

static void *close_soon(void *argument)
{
    (void)argument;
    pthread_barrier_wait(&barrier);
    while ((gamenet_load(&ring.tail) - start) / 2 < (uintptr_t)(PRODUCERS * items_per_producer / 2)) /* given away */
        sched_yield();
    gamenet_ring_shut(&ring);
    pthread_mutex_lock(&takers);
    while (gamenet_ring_waiting(&ring))
        if (!take_one(&given_back))
            sched_yield();
    pthread_mutex_unlock(&takers);
    return NULL;
}

static void play(size_t max_items, int closes)
{
    pthread_t producers[PRODUCERS], consumer, closer;
    gamenet_word is_over = 0;
    long all = 0;
    if (gamenet_ring_open(&ring, max_items))
        exit(1);
    start = (uintptr_t)0 - (uintptr_t)(PRODUCERS * items_per_producer);
    ring.tail = ring.head = start;
    sem_init(&bell, 0, 0);
    pthread_barrier_init(&barrier, NULL, PRODUCERS + (unsigned)closes);
    taken = given_back = 0;
    for (int id = 0; id < PRODUCERS; id++) {
        accepted[id] = next_number[id] = 0;
        pthread_create(&producers[id], NULL, produce, (void *)(intptr_t)id);
    }
    pthread_create(&consumer, NULL, consume, (void *)&is_over);
    if (closes) {
        pthread_create(&closer, NULL, close_soon, NULL);
        pthread_join(closer, NULL);
    }
    for (int id = 0; id < PRODUCERS; id++) {
        pthread_join(producers[id], NULL);
        all += accepted[id];
    }
    if (!closes)
        while (gamenet_ring_waiting(&ring)) /* a lost wake-up stays here */
            sched_yield();
    gamenet_store(&is_over, 1);
    sem_post(&bell);
    pthread_join(consumer, NULL);
    if (taken + given_back != all)
        fail("accepted, and taken or given back", all, taken + given_back);
    if (!closes && all != PRODUCERS * items_per_producer)
        fail("put, and accepted", PRODUCERS * items_per_producer, all);
    for (int id = 0; id < PRODUCERS; id++)
        if (next_number[id] != accepted[id])
            fail("the last number", next_number[id], accepted[id]);
    gamenet_ring_free(&ring);
    pthread_barrier_destroy(&barrier);
    sem_destroy(&bell);
}

int main(int count, char **arguments)
{
    static const size_t sizes[] = {1, 2, 3, 64, 1000};
    items_per_producer = count > 1 ? atol(arguments[1]) : 20000;
    for (int round = 0; round < 10 && !failed; round++)
        play(sizes[round / 2], round % 2);
    return failed;
}
