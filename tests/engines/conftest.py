"""What the tests of the engines room share."""

import signal

import pytest


@pytest.fixture
def no_hang():
    """A test that waits for input is stopped with an error instead of hanging the suite."""

    def stop(*_):
        pytest.fail("the code under test waits")  # no OSError, which the code would catch

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
