"""What a search remembers: in order in memory, by design on disk, through crashes."""

import fcntl
import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import h5py
import numpy as np
import pytest

from sciml.archive import Archive, Store


def filled():
    archive = Archive.empty(3, 2)
    archive.add([1, 1, 1], 3.0, [0.0, 0.0])
    archive.add([1, 1, 0], 2.0, [0.5, -0.9])
    archive.add([0, 1, 1], 2.0, [0.2, 0.3])
    archive.add([1, 0, 0], 1.0, [-1.1, 0.0])
    archive.add([0, 0, 1], 1.0, [0.1, math.nan])  # not all of its errors were asked for
    archive.add([0, 0, 0], 0.0, [math.inf, math.inf])
    return archive


def test_the_best_is_feasible_smallest_and_then_most_accurate():
    archive = filled()
    assert archive.feasible.tolist() == [True, True, True, False, False, False]
    assert archive.best == 2
    assert archive.worst.tolist() == [0.0, 0.9, 0.3, 1.1, 0.1, math.inf]


def test_no_design_beats_one_of_the_front_in_both():
    archive = filled()
    front = archive.front()
    assert archive.objectives[front].tolist() == [1.0, 2.0, 3.0]
    assert archive.worst[front].tolist() == [1.1, 0.3, 0.0]


def test_membership_and_rows():
    archive = filled()
    assert np.array([1, 0, 0]) in archive and np.array([1, 0, 1]) not in archive
    assert archive.index(np.array([1, 0, 0])) == 3 and len(archive) == 6


def test_an_empty_archive_has_no_best():
    assert Archive.empty(3, 2).best is None and not len(Archive.empty(3, 2).front())


def test_outcomes_survive_reopening(tmp_path):
    store = Store(tmp_path / "new" / "masks.h5", 3, 2, "a mechanism")
    store[np.array([1, 0, 1])] = (2.0, np.array([0.5, math.nan]))
    store[np.array([0, 0, 1])] = (math.inf, np.array([math.inf, math.inf]))
    again = Store(tmp_path / "new" / "masks.h5", 3, 2, "a mechanism")
    assert len(again) == 2 and np.array([1, 1, 1]) not in again
    objective, errors = again[np.array([1.0, 0.0, 1.0])]
    assert objective == 2.0 and errors[0] == 0.5 and math.isnan(errors[1])
    assert np.isinf(again[np.array([0, 0, 1])][1]).all()


def test_a_cache_of_something_else_is_refused_and_kept(tmp_path):
    path = tmp_path / "masks.h5"
    Store(path, 3, 2, "one mechanism")[np.ones(3)] = (3.0, np.zeros(2))
    with pytest.raises(ValueError, match="belongs to another mechanism"):
        Store(path, 3, 2, "another mechanism")
    assert len(Store(path, 3, 2, "one mechanism")) == 1


def test_files_that_are_no_cache_are_refused(tmp_path):
    (tmp_path / "text.h5").write_text("not HDF5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["designs"] = np.zeros(3)
    for name, what in (
        (".", "is not a file"),
        ("text.h5", "damaged or not an HDF5 file"),
        ("other.h5", "not written by a search"),
    ):
        with pytest.raises(ValueError, match=what):
            Store(tmp_path / name, 3, 2, "f")


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="cannot be written"):
        Store(tmp_path / "file" / "masks.h5", 3, 2, "f")


def test_a_process_killed_between_two_appends_costs_one_outcome(tmp_path):
    path = tmp_path / "masks.h5"
    store = Store(path, 3, 2, "f")
    store[np.array([1, 1, 0])] = (2.0, np.zeros(2))
    with h5py.File(path, "r+") as file:  # what a kill after the first of three appends leaves
        file["designs"].resize(2, axis=0)
        file["designs"][1] = [1, 0, 0]
    again = Store(path, 3, 2, "f")
    assert len(again) == 1
    again[np.array([0, 1, 0])] = (1.0, np.ones(2))
    last = Store(path, 3, 2, "f")
    assert len(last) == 2 and last[np.array([0, 1, 0])][0] == 1.0 and np.array([1, 0, 0]) not in last


def test_a_driver_killed_at_any_time_loses_no_outcome(tmp_path):
    """A process that reports every outcome it has stored is killed without warning, several times."""
    script = tmp_path / "driver.py"
    script.write_text(
        textwrap.dedent("""
        import sys
        import numpy as np
        from sciml.archive import Store
        store = Store(sys.argv[1], 20, 3, "f")
        for n in range(len(store), 10**6):
            design = np.array([n >> k & 1 for k in range(20)])
            store[design] = (float(n), np.full(3, n))
            print(n, flush=True)
        """)
    )
    path, reported = tmp_path / "masks.h5", -1
    for _ in range(2):
        with subprocess.Popen([sys.executable, script, path], stdout=subprocess.PIPE, text=True) as driver:
            assert driver.stdout is not None
            for line in driver.stdout:
                reported = int(line)
                if reported % 50 == 49:
                    time.sleep(0.003)  # not always at the same point of the loop
                    os.kill(driver.pid, signal.SIGKILL)
                    break
            reported = max([reported, *map(int, driver.stdout.read().split())])
        store = Store(path, 20, 3, "f")
        assert len(store) >= reported + 1
        for n in range(reported + 1):
            assert store[np.array([n >> k & 1 for k in range(20)])][0] == n


def test_a_reader_that_locks_the_file_for_a_moment_costs_nothing(tmp_path):
    store = Store(tmp_path / "masks.h5", 3, 2, "a mechanism")
    with open(tmp_path / "masks.h5", "rb") as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        threading.Timer(0.3, fcntl.flock, (reader, fcntl.LOCK_UN)).start()
        store[np.array([1, 0, 1])] = (2.0, np.zeros(2))
    assert len(Store(tmp_path / "masks.h5", 3, 2, "a mechanism")) == 1


def test_a_disk_that_fills_up_is_one_sentence_and_loses_nothing(tmp_path):
    """The limit on the size of a file fails as a full disk does; the process must live, and the file must reopen."""
    script = tmp_path / "driver.py"
    script.write_text(
        textwrap.dedent("""
        import resource, sys
        import numpy as np
        from sciml.archive import Store
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
        store, stored = Store(sys.argv[1], 50, 3, "f"), 0
        try:
            for stored in range(10**5):
                store[np.array([stored >> k & 1 for k in range(50)])] = (float(stored), np.zeros(3))
        except OSError as error:
            print(stored, error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        store[np.ones(50)] = (1.0, np.ones(3))  # there is room again
        print(len(store))
        """)
    )
    path = tmp_path / "masks.h5"
    done = subprocess.run([sys.executable, script, path], capture_output=True, text=True, timeout=60)
    said, count = done.stdout.splitlines()
    assert done.returncode == 0 and done.stderr == ""
    stored = int(said.split()[0])
    assert stored > 64 and int(count) == stored + 1
    assert f"the cache {path} cannot be written: File too large" in said
    store = Store(path, 50, 3, "f")
    assert len(store) == stored + 1
    assert [store[np.array([n >> k & 1 for k in range(50)])][0] for n in range(stored)] == list(range(stored))


def test_a_disk_without_room_for_a_new_cache_is_one_sentence(tmp_path, monkeypatch):
    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="cannot be written: .*No space left on device"):
        Store(tmp_path / "masks.h5", 3, 2, "f")
    assert list(tmp_path.iterdir()) == []


def test_two_searches_with_one_cache_lose_nothing_of_each_other(tmp_path):
    one, other = (Store(tmp_path / "m.h5", 3, 1, "f") for _ in range(2))
    for k, store in enumerate((one, one, other, one)):
        store[np.array([k // 2, k % 2, 1])] = (float(k), np.array([0.1 * k]))
    again = Store(tmp_path / "m.h5", 3, 1, "f")
    assert [again[np.array([k // 2, k % 2, 1])][0] for k in range(4)] == [0, 1, 2, 3]
