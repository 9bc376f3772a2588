import signal

import pytest

from pengi_rt.errors import missing_module
from pengi_rt.system import interrupt


def test_an_interrupt_is_remembered_and_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupt, "_came", False)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        interrupt.remember_interrupts()
        assert not interrupt.was_interrupted()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert interrupt.was_interrupted()


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
