# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Workers of a `DataLoader` go on after a signal that is meant for their parent, and end when the parent ends them."""

import multiprocessing
import signal
import subprocess

import pytest
from torch.utils.data import DataLoader

from dinov3seg_hf.model.workers import end_with_parent


@pytest.fixture
def reading():
    """An iterator over 40 numbers that two workers read, both of which run; and the workers."""
    others = multiprocessing.active_children()
    items = iter(DataLoader(range(40), num_workers=2, worker_init_fn=end_with_parent))
    assert [int(next(items)), int(next(items))] == [0, 1]
    return items, [child for child in multiprocessing.active_children() if child not in others]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_for_all_processes_of_a_job_ends_no_worker(reading, number):
    """As launchers and clusters send it: the parent still needs the batches of its last step."""
    items, workers = reading
    assert len(workers) == 2
    subprocess.run(["kill", f"-{int(number)}", *(str(worker.pid) for worker in workers)], check=True)
    assert [int(item) for item in items] == list(range(2, 40))


def test_the_parent_ends_its_workers(reading):
    items, workers = reading
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join(20)
    assert [worker.exitcode for worker in workers] == [0, 0]
    del items
