"""Items are worked at in processes, in order, and a process that dies is told in words."""

import os

import cv2
import pytest

from unirain_plugin.errors import DataError
from unirain_plugin.rain import pair_files
from unirain_plugin.support.processes import map_in_processes


def test_few_items_are_worked_at_here_and_many_in_processes_of_one_thread_each():
    threads = cv2.getNumThreads()
    for count, chunk, here in ((255, 16, True), (256, 16, False), (1, 1, False)):
        pids = list(map_in_processes(_pid_and_threads, range(count), 2, chunk))
        assert [item for item, _, _ in pids] == list(range(count))
        assert all((pid == os.getpid()) is here and (here or own == 1) for _, pid, own in pids)
    assert cv2.getNumThreads() == threads
    assert next(map_in_processes(_pid_and_threads, range(999), 1))[1] == os.getpid()


def _pid_and_threads(item):
    return item, os.getpid(), cv2.getNumThreads()


def test_a_worker_that_dies_is_told_with_what_helps(monkeypatch):
    told = r"^a worker process died, perhaps for lack of memory: use fewer --workers"
    with pytest.raises(DataError, match=rf"{told}\.$"):
        list(map_in_processes(os._exit, range(300), 2))
    monkeypatch.setattr(pair_files, "_attempt", os._exit)
    with pytest.raises(DataError, match=rf"{told} or a --size\.$"):
        list(pair_files.make_pairs([1, 2], 2))
