/* Atomic words: the only place that knows how a compiler spells them. Plain C11, also for MSVC, which has no <stdatomic.h>.
 *
 * A word is as wide as a pointer. What stays true: a load that sees a store, or an exchange, also sees everything that
 * its thread wrote before it (acquire and release); exchanges of one word happen one after another, as seen by everybody.
 */
#ifndef GAMENET_ATOMICS_H
#define GAMENET_ATOMICS_H

#include <stdint.h>

typedef volatile uintptr_t gamenet_word;

#ifdef _MSC_VER

#include <intrin.h>

static inline uintptr_t gamenet_exchange(gamenet_word *word, uintptr_t value)
{
    return (uintptr_t)_InterlockedExchangePointer((void *volatile *)word, (void *)value);
}

/* Replace `expected` by `value`; false if the word holds something else. */
static inline int gamenet_replace(gamenet_word *word, uintptr_t expected, uintptr_t value)
{
    void *found = _InterlockedCompareExchangePointer((void *volatile *)word, (void *)value, (void *)expected);
    return (uintptr_t)found == expected;
}

#if defined(_M_X64) || defined(_M_IX86)

/* x86 keeps loads in order, and stores; the compiler has to be told */
static inline uintptr_t gamenet_load(gamenet_word *word)
{
    uintptr_t value = *word;
    _ReadWriteBarrier();
    return value;
}

static inline void gamenet_store(gamenet_word *word, uintptr_t value)
{
    _ReadWriteBarrier();
    *word = value;
}

#else

/* ARM does not: the interlocked functions are full barriers */
static inline uintptr_t gamenet_load(gamenet_word *word)
{
    return (uintptr_t)_InterlockedCompareExchangePointer((void *volatile *)word, (void *)0, (void *)0);
}

static inline void gamenet_store(gamenet_word *word, uintptr_t value)
{
    gamenet_exchange(word, value);
}

#endif

#else

static inline uintptr_t gamenet_exchange(gamenet_word *word, uintptr_t value)
{
    return __atomic_exchange_n(word, value, __ATOMIC_ACQ_REL);
}

/* Replace `expected` by `value`; false if the word holds something else. */
static inline int gamenet_replace(gamenet_word *word, uintptr_t expected, uintptr_t value)
{
    return __atomic_compare_exchange_n(word, &expected, value, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

static inline uintptr_t gamenet_load(gamenet_word *word)
{
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static inline void gamenet_store(gamenet_word *word, uintptr_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

#endif

#endif
