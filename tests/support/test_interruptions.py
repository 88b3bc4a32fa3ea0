"""Ctrl-C and SIGTERM end a program in order, with one line."""

import os
import signal
import threading
import time

import pytest

import unirain_plugin.__main__ as cli
from unirain_plugin.support.interruptions import Terminated, resumable, terminable
from unirain_plugin.support.processes import process_pool, uninterrupted


@pytest.mark.parametrize(
    ("number", "told"),
    [(signal.SIGINT, "\ninterrupted; run it again\n"), (signal.SIGTERM, "\nterminated; run it again\n")],
)
def test_a_signal_ends_a_command_with_what_is_kept(monkeypatch, capsys, number, told):
    def work(argv):
        with resumable("run it again"), resumable("an inner part is kept"):
            exec("signal.raise_signal(number)", {"signal": signal, "number": number})

    monkeypatch.setattr(cli, "entry", lambda command: work)
    before = signal.getsignal(number)
    assert cli.run("index-dataset", []) == 128 + number
    assert capsys.readouterr().err == told and signal.getsignal(number) == before


def test_the_second_signal_ends_the_process_at_once():
    with terminable():
        with pytest.raises(Terminated):
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_in_a_callback_is_not_lost(number, capsys):
    class Thing:
        def __del__(self):
            signal.raise_signal(number)

    reading, writing = os.pipe()
    released = threading.Timer(10, os.close, [writing])  # else the wait would have no end
    released.start()
    with pytest.raises(KeyboardInterrupt) as end, terminable():
        Thing()
        os.read(reading, 1)
    assert released.is_alive(), "the wait is broken off, not waited for"
    released.cancel()
    for end_of_pipe in (reading, writing):
        os.close(end_of_pipe)
    assert isinstance(end.value, Terminated) == (number == signal.SIGTERM) and capsys.readouterr().err == ""


def test_a_signal_that_a_library_makes_an_error_of_its_own_of_is_not_lost():
    with pytest.raises(Terminated), terminable():
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            raise ImportError("the C extensions failed") from None


def test_what_is_ignored_stays_ignored(monkeypatch):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as nohup does
    try:
        with terminable():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_signal_that_a_callback_loses_at_the_very_end_comes_once():
    """Python ignores what is raised while an object is freed; the signal that is sent again must not come too late."""

    class Freed:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Terminated), terminable():
        Freed()
    time.sleep(0.05)  # a second one would end this process
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_rank_of_torchrun_ends_as_the_system_has_it(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with terminable():
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_end_of_a_start(number):
    """Also one that another thread takes, which does not block it."""
    after = False
    with pytest.raises(KeyboardInterrupt), terminable(), uninterrupted():
        other = threading.Thread(target=signal.pthread_kill, args=(threading.main_thread().ident, number))
        other.start()
        other.join()
        os.kill(os.getpid(), number)
        after = True
    assert after and number not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_ctrl_c_does_not_reach_what_is_started():
    with process_pool(1) as pool:
        blocked = pool.submit(signal.pthread_sigmask, signal.SIG_BLOCK, ()).result()
    assert signal.SIGINT in blocked and signal.SIGTERM not in blocked
