"""Threads that start together: such that run one after another would prove nothing."""

import threading


def in_threads(work, number=4):
    """Run `work(index)` in threads that start together; what they raised."""
    barrier, errors = threading.Barrier(number), []

    def run(index):
        barrier.wait()
        try:
            work(index)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    return errors
