import signal
import sys
import time
import weakref
from collections.abc import Iterator

import pytest

from pengi_rt.errors import missing_module
from pengi_rt.system import interrupt


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that handles no signal yet; what the test installs is taken back."""
    monkeypatch.setattr(interrupt, "_came", False)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    alarm = signal.getsignal(signal.SIGALRM)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
    signal.signal(signal.SIGALRM, alarm)


@pytest.mark.usefixtures("fresh")
def test_an_interrupt_is_remembered_and_raised() -> None:
    interrupt.remember_interrupts()
    assert not interrupt.was_interrupted()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert interrupt.was_interrupted()


@pytest.mark.usefixtures("fresh")
def test_an_interrupt_that_python_discards_is_raised_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In the callback of a weak reference and in a __del__."""

    class Interrupted:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    def delete_and_wait() -> None:
        things.clear()
        time.sleep(60)

    interrupt.remember_interrupts()
    things = [Interrupted()]
    observer = weakref.ref(things[0], lambda _: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        delete_and_wait()
    assert observer() is None
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("fresh")
def test_other_discarded_exceptions_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    class Failing:
        def __del__(self) -> None:
            raise ValueError("lost")

    interrupt.remember_interrupts()
    Failing()
    assert "ValueError: lost" in capsys.readouterr().err


def test_an_interrupt_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        interrupt.remember_interrupts()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_import_that_was_interrupted_lacks_no_module() -> None:
    assert missing_module(ModuleNotFoundError(name="torch")) == "torch"
    with pytest.raises(ModuleNotFoundError):
        missing_module(ModuleNotFoundError())
