"""Simulations on a Dask cluster, and workers that die: no finished simulation is lost."""

import os
import signal
import time
from concurrent.futures import Future
from functools import partial

import numpy as np
import pytest

from sciml.archive import Archive, Store
from sciml.chemistry.conditions import Conditions
from sciml.chemistry.evaluation import Evaluation
from sciml.chemistry.mechanism import Mechanism
from sciml.chemistry.metrics import IgnitionDelay
from sciml.search import simulate_all

DESIGNS = np.ones((6, 10)) - np.eye(10)[4:]


@pytest.fixture(scope="module")
def evaluate():
    return Evaluation(Mechanism("h2o2.yaml"), Conditions.grid("H2", [1200.0], [1.0], [1.0]), [IgnitionDelay()])


def deadly_once(folder, design):
    """Kills its own process the first time that it is asked for one of the designs."""
    if design[5] == 0 and not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return float(design.sum()), np.array([0.5])


def test_a_dask_cluster_simulates_as_this_process_does_and_survives_a_killed_worker(evaluate, tmp_path):
    distributed = pytest.importorskip("distributed")
    here, there = Archive.empty(10, 1), Archive.empty(10, 1)
    simulate_all(evaluate, DESIGNS, here)
    store = Store(tmp_path / "m.h5", 10, 1, evaluate.fingerprint)
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        simulate_all(evaluate, DESIGNS, there, client, None, store)
        survived = Archive.empty(10, 1)
        simulate_all(partial(deadly_once, tmp_path), DESIGNS, survived, client)
    np.testing.assert_allclose(here.errors, there.errors, rtol=1e-9, atol=1e-9)
    assert len(store) == len(DESIGNS)
    assert (tmp_path / "died").exists() and (survived.errors == 0.5).all()


class Dying:
    """An executor whose scheduler goes after so many jobs, as Dask's does: what it still had is cancelled."""

    def __init__(self, jobs):
        self.jobs = jobs

    def submit(self, task, *arguments):
        future = Future()
        if self.jobs:
            self.jobs -= 1
            future.set_result(task(*arguments))
        else:
            future.cancel()
        return future


def test_a_scheduler_that_dies_ends_the_search_in_one_sentence_and_keeps_what_was_simulated(tmp_path):
    def simulate(design):
        return float(design.sum()), np.array([0.5])

    archive, store = Archive.empty(10, 1), Store(tmp_path / "m.h5", 10, 1, "dying")
    with pytest.raises(RuntimeError, match="no longer answers; what it finished before is kept"):
        simulate_all(simulate, np.unique(DESIGNS, axis=0), archive, Dying(2), None, store)
    assert len(Store(tmp_path / "m.h5", 10, 1, "dying")) == 2 and len(archive) == 0


def deadly(design):
    """Kills its own process, without a word, for one design."""
    if design[5] == 0:
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    return float(design.sum()), np.array([0.5])


def test_a_worker_that_is_killed_costs_its_own_simulation_only(tmp_path):
    archive, store = Archive.empty(10, 1), Store(tmp_path / "m.h5", 10, 1, "deadly")
    simulate_all(deadly, DESIGNS, archive, 2, None, store)
    killed = DESIGNS[:, 5] == 0
    assert np.isinf(archive.errors[killed]).all() and (archive.errors[~killed] == 0.5).all()
    again = Store(tmp_path / "m.h5", 10, 1, "deadly")
    assert all(d in again and again[d][0] == 9.0 for d in DESIGNS[~killed])
    assert DESIGNS[killed][0] not in again  # its simulation never finished, so the next search tries it again
