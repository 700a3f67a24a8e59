"""What the scheduler's signals do, in training and outside of it."""

import os
import signal
import sys
import threading

import pytest
from tiny_training import child

from cft_lab.training import signals
from cft_lab.training.signals import STOP_SIGNALS, Requeue, ending_at_once, stop_requests


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_asks_training_to_end_and_is_handled_as_before_afterwards(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_requests() as stop:
        assert not stop.asked
        os.kill(os.getpid(), number)
        assert stop.asked
        os.kill(os.getpid(), number)  # the echo of a scheduler that signals a process and its parent
    assert signal.getsignal(number) is before


def test_a_second_signal_ends_at_once_unless_a_parent_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "ECHO_S", 0.0)
    with stop_requests(patient=True) as stop:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked
    with stop_requests() as stop:
        os.kill(os.getpid(), signal.SIGUSR2)
        with pytest.raises(Requeue, match="at once by a second SIGTERM"):
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_outside_training_a_signal_ends_like_an_interrupt(number: signal.Signals) -> None:
    def work_that_retries_errors() -> None:
        try:
            os.kill(os.getpid(), number)
        except Exception:
            pytest.fail("it is no error")

    with pytest.raises(Requeue, match=f"Stopped by {number.name}"), ending_at_once():
        work_that_retries_errors()


def test_training_inside_a_stage_takes_over_and_gives_back() -> None:
    with ending_at_once():
        with stop_requests() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.asked
        with pytest.raises(Requeue):
            os.kill(os.getpid(), signal.SIGTERM)


def test_in_another_thread_nothing_changes() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work() -> None:
        with stop_requests() as stop:
            seen.append((signal.getsignal(signal.SIGTERM), stop.asked))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(before, False)]


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_run_py_ends_with_the_code_that_asks_for_a_requeue(number: signal.Signals) -> None:
    """Between trainings too: everything can be resumed at any moment."""
    script = "import time; from cft_lab.cli import guarded; guarded(lambda: (print('ready', flush=True), time.sleep(60)))"
    with child([sys.executable, "-c", script]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 75
    assert f"Stopped by {number.name}. What is finished stays" in errors
    assert "run the same command again" in errors
    assert "Traceback" not in errors
