"""One door to executors: this process, local processes, or anything with `submit` such as a Dask client.

Jobs run in spawned processes, so that no state of this one leaks into them. A job that raises is a value, one that
takes too long is killed, and a worker that dies takes only its own job with it. A `Pool` keeps processes from one call
to the next, for starting one takes seconds.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Self, TypeVar

__all__ = ["Failure", "Pool", "check", "cores", "kept", "run"]

A = TypeVar("A")
B = TypeVar("B")
# each worker is one core's worth of work; several threads in each would only fight for the cores
_THREADS = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


@dataclass(frozen=True)
class Failure:
    """A job without a result, and why: one sentence.

    Attributes:
        message: the sentence.
        died: whether its process ended, for which the job need not be to blame.
    """

    message: str
    died: bool = False


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(
    task: Callable[[A], B],
    items: Sequence[A],
    workers: int | Any = 0,
    timeout: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[int, B | Failure]]:
    """Apply `task` to every item and yield `(index, result)` as they finish.

    Args:
        task: what to do; for processes it is a module's function, or a `functools.partial` of one.
        items: what to do it to.
        workers: 0 for this process, a number of local processes, -1 for one on every core, a `Pool` of them, or an
            executor with `submit(task, item)` whose futures have `done()` and `result()`.
        timeout: seconds for each job, in processes only: a longer one is killed and yields a Failure.
        progress: called with (finished, all) after each job.

    Raises:
        ValueError: for a negative number of workers, or a timeout that cannot be kept.
        RuntimeError: if the processes cannot start the task at all, or an executor has gone.
    """
    check(workers, timeout)
    # left to choose, no process is started for a single job that none has to stop
    workers = 0 if workers == -1 and len(items) < 2 and timeout is None else _settled(workers)
    if isinstance(workers, int):
        results = _once(task, items, workers, timeout) if workers else _here(task, items)
    elif isinstance(workers, Pool):
        results = workers.run(task, items, timeout)
    else:
        results = _submitted(task, items, workers)
    return _counted(results, len(items), progress)


def check(workers: int | Any, timeout: float | None = None) -> None:
    """Refuse what `run` would refuse, before there is anything to run.

    Raises:
        ValueError: see `run`.
    """
    number = isinstance(workers, int) and not isinstance(workers, bool) and workers >= -1
    if not (number or isinstance(workers, Pool) or hasattr(workers, "submit")):
        raise ValueError(f"workers is {workers!r}, but must be -1, 0, a number of processes or an executor")
    if timeout is not None and (not timeout > 0 or not isinstance(workers, int | Pool) or workers == 0):
        raise ValueError(f"timeout is {timeout!r}, but must be a positive time, and needs workers that can be killed")


def _settled(workers: int | Any) -> int | Any:
    """A number of processes where all cores are asked for."""
    return cores() if isinstance(workers, int) and workers == -1 else workers


def _counted(
    results: Iterator[tuple[int, B | Failure]], total: int, progress: Callable[[int, int], None] | None
) -> Iterator[tuple[int, B | Failure]]:
    for finished, result in enumerate(results, start=1):
        if progress is not None:
            progress(finished, total)
        yield result


def _attempt(task: Callable[[A], B], item: A) -> B | Failure:
    try:
        return task(item)
    except Exception as error:
        return Failure(f"{type(error).__name__}: {' '.join(str(error).split())}")


def _here(task: Callable[[A], B], items: Sequence[A]) -> Iterator[tuple[int, B | Failure]]:
    for index, item in enumerate(items):
        yield index, _attempt(task, item)


def _submitted(task: Callable[[A], B], items: Sequence[A], executor: Any) -> Iterator[tuple[int, B | Failure]]:
    waiting = {index: executor.submit(_attempt, task, item) for index, item in enumerate(items)}
    try:
        while waiting:
            done = [index for index, future in waiting.items() if future.done()]
            for index in done:
                future = waiting.pop(index)
                try:
                    result = future.result()
                except CancelledError as error:  # nobody here cancels, so whoever took the jobs has gone
                    raise RuntimeError(
                        "the executor lost its jobs: its scheduler no longer answers; what it finished before is kept"
                    ) from error
                except Exception as error:  # the executor's own: a lost worker, a result that cannot travel
                    result = Failure(f"{type(error).__name__}: {error}")
                yield index, result
            if not done:
                time.sleep(0.005)
    finally:
        for future in waiting.values():
            future.cancel()


# ------------------------------------------------------------------ local processes


def _work(task: Callable[[Any], Any], pipe: Connection) -> None:
    """The life of a worker: say that it lives, then answer every item until the pipe closes."""
    with suppress(EOFError, KeyboardInterrupt, BrokenPipeError, ConnectionResetError):
        pipe.send(None)
        while True:
            result = _attempt(task, pipe.recv())
            try:
                pipe.send(result)
            except (AttributeError, TypeError, ValueError) as error:
                pipe.send(Failure(f"the result cannot be sent to another process: {error}"))


@contextmanager
def _deaf() -> Iterator[None]:
    """What is started here never hears Ctrl-C, which reaches every process of a terminal: who asked for it ends it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # which else would be started by the first process, and unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Worker:
    """A process and what it is doing: starting (not ready), idle (no index) or busy until its deadline."""

    def __init__(self, context: Any, task: Callable[[Any], Any]):
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(task, theirs), daemon=True)
        self.ready = False
        self.index: int | None = None
        self.deadline = float("inf")
        before = {name: os.environ.get(name) for name in _THREADS}
        os.environ.update(_THREADS)  # inherited by the child, where it must stand before numpy is imported
        try:
            with _deaf():
                self.process.start()
        except (AttributeError, TypeError) as error:
            raise ValueError(f"task cannot be sent to a process, so it must be a module's function: {error}") from error
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
            theirs.close()

    def give(self, index: int, item: Any, timeout: float | None) -> None:
        self.index = index
        self.deadline = time.monotonic() + timeout if timeout else float("inf")
        with suppress(BrokenPipeError, ConnectionResetError):  # a death is noticed when the answer is read
            self.pipe.send(item)

    def answer(self, timeout: float | None) -> tuple[bool, Any]:
        """(whether the worker lives on, its result); to be called when the pipe speaks or the deadline has passed."""
        if self.pipe.poll():
            with suppress(EOFError, ConnectionResetError):
                return True, self.pipe.recv()
            self.process.join(5)
            return False, Failure(f"its process died (exit code {self.process.exitcode})", died=True)
        return False, Failure(f"timed out after {timeout:g} s")

    def end(self) -> None:
        self.pipe.close()
        self.process.terminate()
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


@dataclass
class Pool:
    """Local processes that live from one call of `run` to the next with the same task; a context manager.

    Args:
        workers: number of processes, at least one.

    >>> with Pool(1) as pool:
    ...     sorted(run(abs, [-1, -2], pool)), sorted(run(abs, [-3], pool))
    ([(0, 1), (1, 2)], [(0, 3)])
    """

    workers: int
    _team: list[_Worker] = field(default_factory=list, init=False, repr=False)
    _task: Any = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.workers, bool) or not isinstance(self.workers, int) or self.workers < 1:
            raise ValueError(f"workers is {self.workers!r}, but a pool needs at least one process")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all processes."""
        while self._team:
            self._team.pop().end()

    def run(
        self, task: Callable[[A], B], items: Sequence[A], timeout: float | None
    ) -> Iterator[tuple[int, B | Failure]]:
        """See the function `run`; whoever stops half way ends the processes that were busy for him."""
        if task is not self._task:
            self.close()
            self._task = task
        todo = list(enumerate(items))[::-1]
        team = self._team
        try:
            while todo or any(w.index is not None for w in team):
                self._grow(task, len(todo))
                for worker in team:
                    if worker.ready and worker.index is None and todo:
                        worker.give(*todo.pop(), timeout)
                for worker in _speaking(team):
                    index = worker.index
                    result = self._heard(worker, timeout)
                    if todo and worker in team:  # it works on while whoever asked deals with the result
                        worker.give(*todo.pop(), timeout)
                    if index is not None:
                        yield index, result
        finally:
            for worker in [w for w in team if w.index is not None or not w.ready]:
                team.remove(worker)
                worker.end()

    def _grow(self, task: Callable[[Any], Any], wanted: int) -> None:
        """As many processes as there are jobs that no idle one could take, up to `workers`."""
        idle = sum(w.index is None for w in self._team)
        for _ in range(min(self.workers - len(self._team), wanted - idle)):
            self._team.append(_Worker(multiprocessing.get_context("spawn"), task))

    def _heard(self, worker: _Worker, timeout: float | None) -> Any:
        """What a worker says: its result, or how it ended."""
        alive, result = worker.answer(timeout)
        worker.index, worker.deadline = None, float("inf")
        if not alive:
            self._team.remove(worker)
            worker.end()
            if not worker.ready:
                raise RuntimeError(
                    "a process ended before its first job: the task, or the script that asks for it, cannot be"
                    " imported there (a script needs `if __name__ == '__main__':`)"
                )
        worker.ready = True
        return result


def _once(
    task: Callable[[A], B], items: Sequence[A], workers: int, timeout: float | None
) -> Iterator[tuple[int, B | Failure]]:
    with Pool(workers) as pool:
        yield from pool.run(task, items, timeout)


@contextmanager
def kept(workers: int | Any) -> Iterator[int | Any]:
    """For many calls of `run` with one task: a number of local processes becomes a `Pool` that lives through the block.

    >>> with kept(0) as workers:
    ...     workers
    0
    """
    check(workers)
    workers = _settled(workers)
    if isinstance(workers, int) and workers > 0:
        with Pool(workers) as pool:
            yield pool
    else:
        yield workers


def _speaking(team: list[_Worker]) -> list[_Worker]:
    """Wait for an answer, a death or a deadline: the workers that it concerns."""
    until = min(w.deadline for w in team)
    pause = None if until == float("inf") else max(until - time.monotonic(), 0.0)
    heard = wait([w.pipe for w in team], pause)
    now = time.monotonic()
    return [w for w in team if w.pipe in heard or w.deadline <= now]
