"""The signal that asks a trial to stop sets a flag and nothing else."""

import os
import signal
import subprocess
import sys

import pytest

from dstbench.runner.trial import interruption


@pytest.fixture(autouse=True)
def handler_back():
    before = signal.getsignal(interruption.SIGNAL)
    yield
    interruption.listen()
    signal.signal(interruption.SIGNAL, before)


def test_the_signal_sets_a_flag_that_listening_again_clears():
    interruption.listen()
    assert not interruption.asked()
    os.kill(os.getpid(), interruption.SIGNAL)
    os.kill(os.getpid(), interruption.SIGNAL)
    assert interruption.asked()
    interruption.listen()
    assert not interruption.asked()


def test_it_is_no_exception_that_a_failed_trial_could_be_made_of():
    assert not issubclass(interruption.Interrupted, Exception)


def test_it_needs_no_torch():
    code = "import sys, dstbench.runner.trial.interruption; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
