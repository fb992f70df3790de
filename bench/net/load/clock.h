/* Round trips, counted in buckets of a microsecond. */
#ifndef LOAD_CLOCK_H
#define LOAD_CLOCK_H

#include <stdint.h>
#include <stdio.h>
#include <time.h>

enum { BUCKETS = 1000000, BUCKET_NS = 1000 }; /* up to a second; what took longer counts as one */

static uint64_t round_trips, histogram[BUCKETS + 1];

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* How long we were ready to run while others had our core; 0 where the kernel does not count it. */
static uint64_t waited_ns(void)
{
    unsigned long long waited = 0;
    FILE *file = fopen("/proc/self/schedstat", "r");
    if (file == NULL || fscanf(file, "%*u %llu", &waited) != 1)
        waited = 0;
    if (file != NULL)
        fclose(file);
    return waited;
}

static void count_round_trip(uint64_t ns)
{
    uint64_t bucket = ns / BUCKET_NS;
    histogram[bucket < BUCKETS ? bucket : BUCKETS]++;
    round_trips++;
}

/* In seconds, the upper end of its bucket. */
static double percentile(double share)
{
    uint64_t wanted = (uint64_t)((double)round_trips * share), seen = 0;
    for (int bucket = 0; bucket < BUCKETS; bucket++)
        if ((seen += histogram[bucket]) > wanted)
            return (bucket + 1) * (double)BUCKET_NS / 1e9;
    return 1.0;
}

#endif
