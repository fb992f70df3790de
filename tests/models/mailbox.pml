/* The mailbox's ring (gamenet/_compiled/ring.h) and its taker (mailbox.pyx, loop_mailbox.py), one atomic step at a time.
 *
 * 2 producers put 2 items each, into a ring of MAX; the taker takes up to LIMIT at a time when a wake-up brings it;
 * somebody closes the mailbox at any moment, or never. spin looks at every interleaving of their steps. What must hold:
 *
 *   - each accepted item is taken or given back by close(), once; a refused one never
 *   - the items of a producer in its order
 *   - never more than MAX places are given away; a slot that is written is empty
 *   - a put is refused only if the ring was full, or shut
 *   - nothing waits for ever: there is no end in which an item waits and nobody comes
 *   - a wake-up for each time that the taker slept, at most: one per batch, and not one per item
 *
 * check.py compiles it with each of the faults below (-DFAULT_...), and spin must find every one.
 * Memory is sequentially consistent here; that acquire and release are enough is shown by ring_stress.c and argued in ring.h.
 */
#ifndef MAX
#define MAX 2
#endif
#ifndef LIMIT
#define LIMIT 1
#endif
#if MAX == 3
#define SLOTS 4 /* a power of 2, MAX or more */
#else
#define SLOTS MAX
#endif
#define ITEMS 2  /* of each producer */

byte tail, head;  /* places given away, places free again */
bool shut, awake;
byte slot[4];     /* 0: empty; else 1 + 2 * producer + number */
byte wakeups;     /* on their way */
byte due = 1;     /* times that the taker slept and was not woken since */
byte finished;    /* producers */
bool closing, closed;

/* the account */
byte fate[4];        /* 0: not decided, 1: accepted, 2: refused, 3: taken, 4: given back */
byte next_number[2]; /* the lowest that may be taken of each producer */

#define WAITING (tail - head)
#ifdef FAULT_SHUT_APART /* the exchange of tail does not see that it was shut */
#define IS_AS_SEEN (tail == seen_tail)
#else
#define IS_AS_SEEN (tail == seen_tail && shut == seen_shut)
#endif

inline settle(item, how) {
    assert(item != 0);
    assert(fate[item - 1] == 1);
    fate[item - 1] = how;
    assert((item - 1) % 2 >= next_number[(item - 1) / 2]);
    next_number[(item - 1) / 2] = (item - 1) % 2 + 1;
}

inline wake() {
    d_step { assert(due > 0); due--; wakeups++ }
}

/* gamenet_ring_sleep() and gamenet_ring_stay_awake() */
inline sleep() {
    d_step { due = due + awake; awake = false }
}

inline stay_awake() {
    d_step { due = due - !awake; awake = true }
}

/* gamenet_ring_put() */
proctype producer(byte id) {
    byte number, seen_tail, place, was_awake;
    bool seen_shut, is_full, is_done;
    do
    :: number == ITEMS -> break
    :: number < ITEMS ->
        is_done = false;
        do
        :: is_done -> break
        :: !is_done ->
#ifdef FAULT_HEAD_FIRST /* head is read before tail: a difference too large refuses without need */
            byte seen_head;
            seen_head = head;
            d_step { seen_tail = tail; seen_shut = shut; is_full = (seen_tail - seen_head >= MAX); assert(!is_full || WAITING >= MAX) }
#else
            d_step { seen_tail = tail; seen_shut = shut }
            d_step { is_full = (seen_tail - head >= MAX); assert(!is_full || WAITING >= MAX) }
#endif
            if
            :: seen_shut || is_full ->
                d_step { fate[2 * id + number] = 2; is_done = true }
            :: !(seen_shut || is_full) ->
#ifdef FAULT_NO_EXCHANGE /* the place is taken without a look whether it is still free */
                skip;
                d_step { place = seen_tail; tail = seen_tail + 1; fate[2 * id + number] = 1; is_done = true }
#else
                d_step {
                    if
                    :: IS_AS_SEEN -> place = seen_tail; tail++; fate[2 * id + number] = 1; is_done = true;
                       assert(WAITING <= MAX)
                    :: else -> skip
                    fi
                }
#endif
            fi
        od;
        if
        :: fate[2 * id + number] == 2 -> skip
        :: else ->
#ifdef FAULT_WAKE_FIRST /* awake is set before the slot */
            d_step { was_awake = awake; awake = true }
            d_step { assert(slot[place % SLOTS] == 0); slot[place % SLOTS] = 1 + 2 * id + number }
#else
            d_step { assert(slot[place % SLOTS] == 0); slot[place % SLOTS] = 1 + 2 * id + number }
#ifdef FAULT_LOOK_THEN_SET /* awake is read and set in two steps */
            was_awake = awake;
            awake = true;
#else
            d_step { was_awake = awake; awake = true }
#endif
#endif
            if
            :: was_awake -> skip
            :: else -> wake()
            fi
        fi;
        number++
    od;
    finished++
}

/* gamenet_ring_take() of the slot at head, which is not empty */
inline take_next(how) {
    item = slot[head % SLOTS];
#ifdef FAULT_HEAD_THEN_SLOT /* the place is free before its slot is empty */
    head++;
    slot[(head - 1) % SLOTS] = 0;
#else
    slot[head % SLOTS] = 0;
    head++;
#endif
    settle(item, how)
}

#define HAS_NEXT (slot[head % SLOTS] != 0)
#define MUTEX_TAKE atomic { !busy -> busy = true }
#define MUTEX_GIVE busy = false
bool busy; /* the critical section: takers take turns */

/* Mailbox.take(), called until it gives nothing */
proctype taker() {
    byte item, taken;
    bool sleeps;
    do
    :: atomic { wakeups > 0 -> wakeups-- };
        sleeps = false;
        do
        :: sleeps -> break
        :: !sleeps ->
            MUTEX_TAKE;
            taken = 0;
            if
            :: HAS_NEXT -> skip
            :: else ->
#ifdef FAULT_NO_SECOND_LOOK /* what came between the look and the sleep is not seen */
                sleep();
                sleeps = true
#else
                sleep();
                if
                :: HAS_NEXT -> stay_awake()
                :: else -> sleeps = true
                fi
#endif
            fi;
            do
            :: !sleeps && taken < LIMIT && HAS_NEXT -> take_next(3); taken++
            :: else -> break
            od;
#ifdef FAULT_SLEEPS_AFTER_A_BATCH /* it neither sleeps nor comes again: wake-ups are not called, and none is coming */
            sleeps = true;
#endif
            MUTEX_GIVE
        od
    :: finished == 2 && wakeups == 0 && closing == closed && (closed || WAITING == 0) -> break
    od
}

/* Mailbox.close() */
proctype closer() {
    byte item;
    if
    :: skip -> goto stays_open
    :: skip -> closing = true
    fi;
    shut = true;
    MUTEX_TAKE;
    do
    :: HAS_NEXT -> take_next(4)
#ifdef FAULT_CLOSE_DOES_NOT_WAIT /* for producers between their place and their slot */
    :: else -> break
#else
    :: !HAS_NEXT && WAITING == 0 -> break
    :: !HAS_NEXT && WAITING > 0 -> (HAS_NEXT)
#endif
    od;
    MUTEX_GIVE;
    assert(WAITING == 0); /* and so it stays */
    closed = true;
stays_open:
    skip
}

init {
    byte index;
    atomic {
        run producer(0);
        run producer(1);
        run taker();
        run closer()
    }
    (_nr_pr == 1); /* everybody has ended */
    assert(tail == head && slot[0] + slot[1] + slot[2] + slot[3] == 0);
    for (index : 0 .. 3) {
        assert(fate[index] == 2 || fate[index] == 3 || fate[index] == 4)
    }
}
