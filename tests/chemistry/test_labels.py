"""Labels: what workers make in chunks is what one process makes, survives a crash, and says what it is."""

import numpy as np
import pytest

from sciml import parallel
from sciml.chemistry import Mechanism, labels
from sciml.chemistry.labels import Dataset, audit, label, resume
from sciml.chemistry.samples import Samples
from sciml.chemistry.sampling import Ranges


@pytest.fixture(scope="module")
def mechanism():
    return Mechanism("h2o2.yaml")


def drawn(mechanism, n, bad=()):
    states = Ranges("H2", (1100.0, 1500.0)).charges(mechanism, n, np.random.default_rng(0))
    for row in bad:
        states[row, 0] = 50.0
    return Samples(states, np.zeros(n, dtype=np.int64), ("charges",), {"duplicate": 3})


def test_labels_are_the_trajectories(mechanism, tmp_path):
    samples = drawn(mechanism, 7)
    seen = []
    found = label(mechanism, samples, tmp_path / "l.h5", 1e-6, 4, chunk=3, progress=lambda a, b: seen.append((a, b)))
    assert found.windows.shape == (7, 5, 12) and seen == [(1, 3), (2, 3), (3, 3)]
    exact = mechanism.trajectory(samples.states[5], 1e-6 * np.arange(5))
    np.testing.assert_allclose(found.windows[5], exact, rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(found.states[21], found.windows[5, 1])
    np.testing.assert_array_equal(found.next_states[21], found.windows[5, 2])
    stored = Dataset.load(tmp_path / "l.h5")
    np.testing.assert_array_equal(stored.windows, found.windows)
    assert (stored.mechanism, stored.hash, stored.dt, stored.rtol) == ("h2o2.yaml", mechanism.hash, 1e-6, 1e-9)
    assert stored.species == mechanism.species and stored.origins == ("charges",)
    assert not (tmp_path / "l.h5.chunks").exists()


def test_one_step_equals_the_first_step_of_many(mechanism, tmp_path):
    samples = drawn(mechanism, 4)
    one = label(mechanism, samples, tmp_path / "1.h5", steps=1)
    many = label(mechanism, samples, tmp_path / "3.h5", steps=3)
    np.testing.assert_allclose(one.windows[:, 1], many.windows[:, 1], rtol=1e-7, atol=1e-14)


def test_states_that_cannot_be_labelled_are_left_out_and_counted(mechanism, tmp_path):
    for steps in (1, 2):
        found = label(mechanism, drawn(mechanism, 9, bad=(2, 5)), tmp_path / f"{steps}.h5", steps=steps, chunk=4)
        assert len(found) == 7 == len(found.origin)
        assert found.left_out == {"duplicate": 3, "refused": 2, "failed": 0}
        assert np.isfinite(found.windows).all()
    with pytest.raises(ValueError, match="none of 2 states"):
        label(mechanism, drawn(mechanism, 2, bad=(0, 1)), tmp_path / "none.h5")


class Crash(Exception):
    pass


def test_finished_chunks_survive_a_crash(mechanism, tmp_path, monkeypatch):
    samples, path = drawn(mechanism, 10), tmp_path / "l.h5"
    whole = label(mechanism, samples, tmp_path / "whole.h5", steps=2, chunk=2)

    def crash(done, total):
        if done == 4:
            raise Crash

    with pytest.raises(Crash):
        label(mechanism, samples, path, steps=2, chunk=2, progress=crash)
    with pytest.raises(FileNotFoundError, match="unfinished: 3 of 5 chunks"):
        Dataset.load(path)
    with pytest.raises(ValueError, match="other states or settings"):
        label(mechanism, samples, path, steps=3, chunk=2)
    done = []
    run = parallel.run
    monkeypatch.setattr(parallel, "run", lambda task, rows, *a, **k: done.append(len(rows)) or run(task, rows, *a, **k))
    found = resume(path)
    assert done == [2]  # the other three were kept
    np.testing.assert_array_equal(found.windows, whole.windows)
    with pytest.raises(FileNotFoundError, match="no unfinished"):
        resume(path)


def test_a_full_disk_keeps_the_finished_chunks(mechanism, tmp_path, monkeypatch):
    samples, path, write = drawn(mechanism, 6), tmp_path / "l.h5", labels.write_h5
    written = []

    def full(file, *rest):
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        write(file, *rest)
        written.append(file)

    monkeypatch.setattr(labels, "write_h5", full)
    with pytest.raises(OSError, match="No space"):
        label(mechanism, samples, path, chunk=2)
    monkeypatch.setattr(labels, "write_h5", write)
    assert len(label(mechanism, samples, path, chunk=2)) == 6


def test_a_disk_that_is_full_before_the_plan_is_written_leaves_nothing(mechanism, tmp_path, monkeypatch):
    def full(file, *rest):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(labels, "write_h5", full)
    with pytest.raises(OSError, match="No space"):
        label(mechanism, drawn(mechanism, 2), tmp_path / "l.h5")
    assert not list(tmp_path.iterdir())


def test_a_mechanism_that_moved_goes_on(mechanism, tmp_path):
    samples, path = drawn(mechanism, 4), tmp_path / "l.h5"

    def stop(done, total):
        raise Crash

    with pytest.raises(Crash):
        label(mechanism, samples, path, chunk=2, progress=stop)
    (tmp_path / "moved.yaml").write_text(mechanism.to_yaml())
    moved = Mechanism(tmp_path / "moved.yaml")
    moved.hash = mechanism.hash  # what Cantera writes has other digits than a copy of the file would have
    found = label(moved, samples, path, chunk=2)
    assert len(found) == 4 and found.mechanism == moved.source


def test_a_damaged_chunk_is_named(mechanism, tmp_path):
    samples, path = drawn(mechanism, 4), tmp_path / "l.h5"

    def stop(done, total):
        if done == total:
            raise Crash

    with pytest.raises(Crash):
        label(mechanism, samples, path, chunk=2, progress=stop)
    chunk = tmp_path / "l.h5.chunks" / "chunk-000000.h5"
    chunk.write_bytes(chunk.read_bytes()[:600])
    with pytest.raises(ValueError, match=r"chunk-000000.h5 is damaged.*; without it, the chunk is labelled again"):
        resume(path)
    chunk.unlink()
    assert len(resume(path)) == 4


def test_processes_give_the_same_labels(mechanism, tmp_path):
    samples = drawn(mechanism, 8)
    here = label(mechanism, samples, tmp_path / "a.h5", steps=2, chunk=2)
    there = label(mechanism, samples, tmp_path / "b.h5", steps=2, chunk=2, workers=2)
    np.testing.assert_array_equal(here.windows, there.windows)


def test_labels_of_another_mechanism_are_refused(mechanism, tmp_path):
    found = label(mechanism, drawn(mechanism, 3), tmp_path / "l.h5")
    other = Mechanism("gri30.yaml")
    with pytest.raises(ValueError, match=r"'h2o2.yaml' with 10 species, but 'gri30.yaml' \(53 species\)"):
        found.check(other)
    with pytest.raises(ValueError, match="other content"):
        audit(found, other)


def test_the_audit_sees_loose_tolerances(mechanism, tmp_path):
    burning = mechanism.ignition(mechanism.state(1200.0, 101325.0)).states[::6]
    samples = Samples(burning, np.zeros(len(burning), dtype=np.int64), ("ignition",))
    good = audit(label(mechanism, samples, tmp_path / "a.h5"), mechanism, n=30)
    loose = audit(label(mechanism, samples, tmp_path / "b.h5", rtol=1e-5, atol=1e-9), mechanism, n=30)
    assert good.rows == loose.rows == min(30, len(burning))
    assert good.worst < 1e-3 < 1e-2 < loose.worst
    assert set(good.shares) <= set(mechanism.species) - {"N2", "AR"} and "OH" in good.shares


def test_impossible_options_are_sentences(mechanism, tmp_path):
    samples = drawn(mechanism, 2)
    for options, words in (
        ({"dt": 0.0}, "dt is 0.0"),
        ({"steps": 0}, "steps is 0"),
        ({"chunk": True}, "chunk is True"),
    ):
        with pytest.raises(ValueError, match=words):
            label(mechanism, samples, tmp_path / "l.h5", **options)
    (tmp_path / "other.h5").write_bytes(b"no")
    with pytest.raises(ValueError, match="not an HDF5"):
        Dataset.load(tmp_path / "other.h5")
