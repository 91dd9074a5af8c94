"""Executors: every item once, failures as values, deadlines, deaths, and nothing left running."""

import multiprocessing
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from sciml.parallel import Failure, Pool, cores, kept, run

EXECUTORS = [0, 1, 2, "threads"]


def square(x):
    if x < 0:
        raise ValueError("x is negative")
    return x * x


def scaled(factor, x):
    return factor * x


def threads(x):
    return os.environ.get("OMP_NUM_THREADS"), os.getpid()


def deaf(x):
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def sleepy(x):
    time.sleep(x)
    return x


def dying(x):
    if x == 1:
        os._exit(7)
    return x


def unsendable(x):
    return lambda: x


def executor(kind):
    return ThreadPoolExecutor(2) if kind == "threads" else kind


@pytest.mark.parametrize("kind", EXECUTORS)
def test_every_item_is_answered_once_and_failures_are_values(kind):
    seen = []
    results = dict(run(square, [3, -1, 0, 5, 2], executor(kind), progress=lambda a, b: seen.append((a, b))))
    assert results == {0: 9, 1: Failure("ValueError: x is negative"), 2: 0, 3: 25, 4: 4}
    assert seen == [(n, 5) for n in range(1, 6)]


@pytest.mark.parametrize("kind", EXECUTORS)
def test_nothing_to_do(kind):
    assert list(run(square, [], executor(kind))) == []


def test_a_partial_travels_and_workers_have_one_thread():
    assert dict(run(partial(scaled, 3), [1, 2], 1)) == {0: 3, 1: 6}
    before = os.environ.get("OMP_NUM_THREADS")
    ((_, (inherited, pid)),) = run(threads, [0], 1)
    assert inherited == "1" and pid != os.getpid() and os.environ.get("OMP_NUM_THREADS") == before


def test_workers_leave_ctrl_c_to_who_asked():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert dict(run(deaf, [0, 1], 2)) == {0: True, 1: True}
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before and signal.SIGINT not in before


def test_a_job_that_takes_too_long_is_killed_and_the_rest_goes_on():
    started = time.monotonic()
    results = dict(run(sleepy, [60.0, 0.0, 0.01], 1, timeout=0.5))
    assert results == {0: Failure("timed out after 0.5 s"), 1: 0.0, 2: 0.01}
    assert time.monotonic() - started < 55  # the job takes 60


def test_a_worker_that_dies_takes_only_its_own_job():
    results = dict(run(dying, [0, 1, 2], 1))
    assert results[0] == 0 and results[2] == 2 and "died (exit code 7)" in results[1].message


def test_a_result_that_cannot_travel_is_a_failure():
    ((_, result),) = run(unsendable, [1], 1)
    assert "cannot be sent" in result.message


def test_stopping_early_leaves_no_process():
    results = run(sleepy, [0.0] + [30.0] * 4, 2)
    assert next(results) == (0, 0.0)
    results.close()
    assert multiprocessing.active_children() == []


def test_processes_share_the_work():
    """Two jobs that only wait take as long as one."""
    started = {}
    for workers in (1, 2):
        clock = None
        for _ in run(sleepy, [0.0] * workers + [0.7] * 4, workers):
            clock = clock or time.monotonic()  # from the first answer, so that start-up does not count
        started[workers] = time.monotonic() - clock
    assert started[1] >= 2.8 and started[2] < 0.8 * started[1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"workers": -2}, "workers is -2"),
        ({"workers": True}, "workers is True"),
        ({"workers": "two"}, "workers is 'two'"),
        ({"workers": 1, "timeout": 0.0}, "timeout is 0.0"),
        ({"workers": 0, "timeout": 1.0}, "timeout is 1.0"),
    ],
)
def test_bad_options_are_sentences(options, said):
    with pytest.raises(ValueError, match=said):
        run(square, [1], **options)


def test_a_task_that_cannot_travel_is_a_sentence():
    with pytest.raises(ValueError, match="must be a module's function"):
        list(run(lambda x: x, [1], 1))


def test_a_pool_keeps_its_processes_and_replaces_the_dead():
    with Pool(2) as pool:
        first = {pid for _, (_, pid) in run(threads, range(6), pool)}
        again = {pid for _, (_, pid) in run(threads, range(6), pool)}
        assert again <= first and os.getpid() not in first
        assert {1: "Failure"}.items() <= {i: type(r).__name__ for i, r in run(dying, [0, 1, 2], pool)}.items()
        assert dict(run(dying, [0, 2], pool)) == {0: 0, 1: 2}
        late = dict(run(sleepy, [60.0, 0.0], pool, timeout=1.0))
        assert late == {0: Failure("timed out after 1 s"), 1: 0.0}
        assert dict(run(sleepy, [0.0], pool)) == {0: 0.0}
    assert not multiprocessing.active_children()


def test_a_pool_that_was_left_half_way_answers_only_what_is_asked_next():
    with Pool(2) as pool:
        results = run(sleepy, [0.0, 30.0, 30.0], pool)
        assert next(results) == (0, 0.0)
        results.close()
        assert dict(run(sleepy, [0.0, 0.1], pool)) == {0: 0.0, 1: 0.1}


def test_every_core_gets_a_process():
    with kept(-1) as pool:
        assert isinstance(pool, Pool) and pool.workers == cores()
        assert dict(run(abs, [-1, -2], pool)) == {0: 1, 1: 2}
    assert dict(run(lambda _: os.getpid(), [None], -1)) == {0: os.getpid()}  # one job needs no other process


@pytest.mark.parametrize("workers", [0, -1, True, 1.5])
def test_a_pool_without_processes_is_refused(workers):
    with pytest.raises(ValueError, match="at least one process"):
        Pool(workers)
