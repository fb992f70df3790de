"""The mailbox alone, on both twins: what is refused, who is woken, and the account of what was not taken."""

import gc
import importlib
import sys
import threading
import time
import weakref

import pytest
from interrupted import at_each_place

import gamenet

PRODUCERS = 4


class Item:
    """Something that can be looked for after it is gone."""


def mailbox_of(core, **options):
    """A mailbox, and the list that its wake-ups are noted in."""
    wakes = []
    return core.Mailbox(lambda: wakes.append(None), **options), wakes


def take_all(mailbox, limit=1024):
    """Everything that waits, as a taker that then sleeps."""
    items = []
    while taken := mailbox.take(limit):
        items += taken
    return items


def assert_balanced(mailbox, **expected):
    stats = mailbox.stats()
    assert stats["accepted"] == stats["taken"] + stats["discarded"] + stats["waiting"]
    assert {name: stats[name] for name in expected} == expected
    assert mailbox.waiting == stats["waiting"]


def test_fault_44_items_are_taken_once_and_in_order(core):
    """The book's queue gave its first item uninitialised, and each one after it one too late."""
    mailbox, _ = mailbox_of(core)
    assert all(mailbox.put(number) for number in range(10))
    assert_balanced(mailbox, accepted=10, taken=0, waiting=10)
    assert mailbox.take(4) == [0, 1, 2, 3]
    assert mailbox.take(100) == [4, 5, 6, 7, 8, 9]
    assert mailbox.take() == []
    assert_balanced(mailbox, accepted=10, taken=10, waiting=0, refused=0, discarded=0)


@pytest.mark.parametrize("item", [None, False, 0, [], ()])
def test_any_object_is_an_item(core, item):
    mailbox, _ = mailbox_of(core)
    assert mailbox.put(item)
    assert mailbox.take() == [item]


@pytest.mark.parametrize("max_items", [1, 2, 3, 4, 5, 100])
def test_at_the_limit_below_and_above(core, max_items):
    mailbox, _ = mailbox_of(core, max_items=max_items)
    assert mailbox.max_items == max_items
    for turn in range(5):  # the ring goes round
        assert all(mailbox.put(number) for number in range(max_items))
        assert not mailbox.put("one too many")
        assert mailbox.take(1) == [0]
        assert mailbox.put("fits")
        assert not mailbox.put("does not")
        assert take_all(mailbox) == [*range(1, max_items), "fits"]
        assert_balanced(mailbox, refused=2 * (turn + 1), waiting=0)


def test_one_wake_up_per_batch(core):
    mailbox, wakes = mailbox_of(core)
    for _ in range(5):
        mailbox.put(1)
    assert len(wakes) == 1
    assert len(mailbox.take(3)) == 3  # it comes again by itself
    mailbox.put(1)
    assert len(wakes) == 1
    assert len(mailbox.take(3)) == 3  # as many as there are: it cannot know
    mailbox.put(1)
    assert len(wakes) == 1
    assert take_all(mailbox) == [1]
    mailbox.put(1)
    assert len(wakes) == 2


def test_a_taker_that_is_woken_for_nothing_sleeps_again(core):
    mailbox, wakes = mailbox_of(core)
    assert mailbox.take() == mailbox.take() == []
    mailbox.put(1)
    assert len(wakes) == 1


def test_what_wake_raises_reaches_the_caller_and_the_item_stays(core):
    tries = []

    def wake():
        tries.append(None)
        if len(tries) == 1:
            raise RuntimeError("nobody there")

    mailbox = core.Mailbox(wake)
    with pytest.raises(RuntimeError, match="nobody there"):
        mailbox.put(1)
    assert mailbox.put(2)
    assert len(tries) == 2
    assert take_all(mailbox) == [1, 2]


def test_shut_refuses_and_keeps_what_waits(core):
    mailbox, _ = mailbox_of(core)
    mailbox.put(1)
    assert mailbox.is_open
    mailbox.shut()
    mailbox.shut()
    assert not mailbox.is_open
    assert not mailbox.put(2)
    assert take_all(mailbox) == [1]
    assert_balanced(mailbox, accepted=1, taken=1, refused=1, discarded=0)


def test_close_gives_back_what_was_not_taken(core):
    mailbox, _ = mailbox_of(core)
    for number in range(5):
        mailbox.put(number)
    mailbox.take(2)
    assert mailbox.close() == [2, 3, 4]
    assert mailbox.close() == []
    assert not mailbox.put(5)
    assert mailbox.take() == []
    assert_balanced(mailbox, accepted=5, taken=2, discarded=3, refused=1, waiting=0)


def test_nothing_is_kept_alive(core):
    mailbox, _ = mailbox_of(core, max_items=4)
    items = [Item() for _ in range(4)]
    gone = [weakref.ref(item) for item in items]
    for item in items:
        mailbox.put(item)
    mailbox.put(Item())  # refused
    assert mailbox.take(2) == items[:2]
    del item, items
    gc.collect()
    assert [ref() is None for ref in gone] == [True, True, False, False]
    mailbox.close()
    gc.collect()
    assert gone[2]() is gone[3]() is None


def test_a_mailbox_that_is_forgotten_lets_go_of_its_items(core):
    mailbox, _ = mailbox_of(core)
    item = Item()
    gone, mailbox_gone = weakref.ref(item), weakref.ref(mailbox)
    mailbox.put(item)
    del item, mailbox
    gc.collect()
    assert gone() is mailbox_gone() is None


@pytest.mark.parametrize("item", [1000, "text", (1, 2)])
def test_references_are_counted(core, item):
    item = type(item)(str(item)) if isinstance(item, int) else item * 3  # one of its own: constants may be immortal
    mailbox, _ = mailbox_of(core, max_items=10)
    before = sys.getrefcount(item)
    for _ in range(20):
        mailbox.put(item)
    assert sys.getrefcount(item) == before + 10
    mailbox.take(5)
    mailbox.close()
    assert sys.getrefcount(item) == before


@pytest.mark.parametrize("max_items", [0, -1, (1 << 28) + 1])
def test_a_mailbox_that_cannot_be(core, max_items):
    with pytest.raises(ValueError, match=f"^max_items {max_items} is outside 1 to {1 << 28}$"):
        core.Mailbox(print, max_items)


def test_a_take_that_cannot_be(core):
    mailbox, _ = mailbox_of(core)
    mailbox.put(1)
    with pytest.raises(ValueError, match="limit 0 is outside 1 to"):
        mailbox.take(0)
    assert mailbox.take(1) == [1]


def test_a_finalizer_may_put_in_the_middle_of_a_put(core):
    """Garbage is collected wherever memory is asked for, also inside the mailbox: no deadlock, and no count is lost."""
    mailbox, _ = mailbox_of(core, max_items=1 << 20)
    finalized = []

    class Cycle:
        def __init__(self):
            self.itself = self

        def __del__(self):
            finalized.append(mailbox.put("finalized"))

    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for number in range(2000):
            Cycle()
            mailbox.put([number])
    finally:
        gc.set_threshold(*before)
    gc.collect()
    assert len(finalized) == 2000
    assert all(finalized)
    items = take_all(mailbox)
    assert [item[0] for item in items if item != "finalized"] == list(range(2000))
    assert len(items) == 4000
    assert_balanced(mailbox, accepted=4000, taken=4000)


@pytest.mark.parametrize("in_between", ["put", "take", "close"])
@pytest.mark.parametrize("call", ["put", "take", "close"])
def test_a_signal_handler_may_use_it_in_the_middle_of_a_call(core, call, in_between):
    """At each place where one may come: every accepted item comes out once, and none without a wake-up."""

    def make():
        mailbox, wakes = mailbox_of(core, max_items=3)
        accepted = [number for number in (1, 2) if mailbox.put(number)]
        return mailbox, wakes, accepted, []

    def use(name, state, item):
        mailbox, _, accepted, got = state
        if name != "put":
            got += getattr(mailbox, name)()
        elif mailbox.put(item):
            accepted.append(item)

    for state, _ in at_each_place(make, lambda state: use(call, state, 3), lambda state: use(in_between, state, 4)):
        mailbox, wakes, accepted, got = state
        assert mailbox.waiting <= 3
        assert wakes
        assert sorted(got + take_all(mailbox)) == sorted(accepted)
        assert_balanced(mailbox, waiting=0, accepted=len(accepted))


@pytest.mark.parametrize("call", ["put", "take", "close"])
def test_no_item_is_lost_where_memory_runs_out(core, call):
    testcapi = pytest.importorskip("_testcapi")
    if core.__name__.endswith("_pure"):
        pytest.skip("every step of the interpreter's asks for memory")
    use = getattr(core.Mailbox, call)
    for number in range(40):
        mailbox, accepted, got = core.Mailbox(bool), [object() for _ in range(1000)], []
        for item in accepted:
            mailbox.put(item)
        arguments = (mailbox, accepted) if call == "put" else (mailbox,)
        gc.disable()
        testcapi.set_nomemory(number, number + 1)
        try:
            result = use(*arguments)
        except MemoryError:
            result = None
        finally:
            testcapi.remove_mem_hooks()
            gc.enable()
        got = result if isinstance(result, list) else []
        got += take_all(mailbox)
        assert got[:1000] == accepted
        assert len(got) - 1000 == (call == "put" and result is True)
        assert_balanced(mailbox, waiting=0, accepted=len(got))


# -- threads


@pytest.fixture
def eager_switches():
    """Threads change places as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Producers:
    """Threads that put numbered items, all at once; `accepted[t]` are those of thread t that were taken in."""

    def __init__(self, mailbox, count, waits=True):
        self.accepted = [[] for _ in range(PRODUCERS)]
        self._mailbox, self._count, self._waits = mailbox, count, waits
        self._barrier = threading.Barrier(PRODUCERS + 1)
        self._threads = [threading.Thread(target=self._run, args=(index,)) for index in range(PRODUCERS)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        self._barrier.wait(30)
        return self

    def __exit__(self, *_):
        for thread in self._threads:
            thread.join(60)
        assert not self.are_at_work

    @property
    def are_at_work(self):
        return any(thread.is_alive() for thread in self._threads)

    def _run(self, index):
        accepted, put = self.accepted[index], self._mailbox.put
        self._barrier.wait(30)
        for number in range(self._count):
            while not put((index, number)):
                if not self._waits or not self._mailbox.is_open:
                    break
                time.sleep(0)
            else:
                accepted.append(number)


def of_producers(items):
    """The numbers of each producer, in the order in which they came."""
    numbers = [[] for _ in range(PRODUCERS)]
    for index, number in items:
        numbers[index].append(number)
    return numbers


@pytest.mark.usefixtures("eager_switches")
@pytest.mark.parametrize("max_items", [1, 3, 64, 65536])
def test_fault_45_four_threads_each_item_once_in_each_threads_order(core, max_items):
    """In the book's queue consumer and producer raced on the same node."""
    mailbox, _ = mailbox_of(core, max_items=max_items)
    count, items = 300 if max_items < 64 else 5000, []
    with Producers(mailbox, count) as producers:
        while producers.are_at_work or mailbox.waiting:
            taken = mailbox.take(50)
            items += taken
            assert mailbox.stats()["waiting"] <= max_items
            if not taken:
                time.sleep(0)
    assert of_producers(items) == [list(range(count))] * PRODUCERS
    assert_balanced(mailbox, accepted=PRODUCERS * count, taken=PRODUCERS * count, waiting=0)


@pytest.mark.usefixtures("eager_switches")
def test_a_taker_that_comes_only_when_it_is_woken_misses_nothing(core):
    """Also when an item comes between its last look and its sleep."""
    bell = threading.Semaphore(0)
    mailbox = core.Mailbox(bell.release, max_items=16)
    items, rings = [], 0
    with Producers(mailbox, 2000) as producers:
        while len(items) < PRODUCERS * 2000:
            assert bell.acquire(timeout=30), mailbox.stats()
            rings += 1
            items += take_all(mailbox, 5)
    assert of_producers(items) == producers.accepted == [list(range(2000))] * PRODUCERS
    assert rings <= len(items)


@pytest.mark.usefixtures("eager_switches")
def test_fault_46_two_takers_share_the_items(core):
    """The book's queue freed what both had taken."""
    mailbox, _ = mailbox_of(core, max_items=128)
    shares = [[], []]

    def taker(share):
        while producers.are_at_work or mailbox.waiting:
            share.extend(mailbox.take(7))

    with Producers(mailbox, 2000) as producers:
        takers = [threading.Thread(target=taker, args=(share,)) for share in shares]
        for thread in takers:
            thread.start()
        for thread in takers:
            thread.join(60)
    together = sorted(shares[0] + shares[1])
    assert together == [(index, number) for index in range(PRODUCERS) for number in range(2000)]


@pytest.mark.usefixtures("eager_switches")
@pytest.mark.parametrize("turn", range(5))
def test_closed_half_way_everything_is_accounted_for(core, turn):
    mailbox, _ = mailbox_of(core, max_items=256)
    taken, left = [], []
    with Producers(mailbox, 20_000) as producers:
        while len(taken) < 500 * turn:
            taken += mailbox.take(50)
        left = mailbox.close()
    assert len(taken) >= 500 * turn
    assert of_producers(taken + left) == producers.accepted
    assert sum(map(len, producers.accepted)) < PRODUCERS * 20_000
    assert mailbox.take() == mailbox.close() == []
    assert_balanced(mailbox, taken=len(taken), discarded=len(left), waiting=0)


@pytest.mark.usefixtures("eager_switches")
def test_what_is_refused_was_not_put(core):
    mailbox, _ = mailbox_of(core, max_items=8)
    items = []
    with Producers(mailbox, 3000, waits=False) as producers:
        while producers.are_at_work or mailbox.waiting:
            items += mailbox.take(5)
    assert of_producers(items) == producers.accepted
    assert mailbox.stats()["accepted"] + mailbox.stats()["refused"] == PRODUCERS * 3000


# -- the twins beside each other


@pytest.mark.skipif(gamenet.backend != "compiled", reason="there is one twin only")
def test_both_twins_do_the_same(rng):
    """The same random calls: the same results, wake-ups and counts."""
    twins = [importlib.import_module(f"gamenet.{name}") for name in ("_pure", "_compiled")]
    for _ in range(200):
        max_items = rng.choice((1, 2, 3, 7, 8, 100))
        calls = [(rng.choice(("put", "put", "put", "take", "stats", "shut", "close")), rng.randrange(1, 6)) for _ in range(60)]
        calls = [call for call in calls if call[0] not in ("shut", "close") or rng.random() < 0.05]
        pure, compiled = (played(twin, max_items, calls) for twin in twins)
        assert pure == compiled


def played(core, max_items, calls):
    mailbox, wakes = mailbox_of(core, max_items=max_items)
    results = []
    for name, number in calls:
        arguments = (number,) if name in ("put", "take") else ()
        results.append((name, getattr(mailbox, name)(*arguments), len(wakes), mailbox.waiting, mailbox.is_open))
    return results, mailbox.stats()
