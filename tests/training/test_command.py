"""Exit codes and messages of the commands in training/."""

import pytest

from pengi_rt.errors import UsageError
from pengi_rt.training.command import exit_code


def ends(error: BaseException | None) -> int:
    def work() -> None:
        if error is not None:
            raise error

    return exit_code(work)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (None, 0, ""),
        (UsageError("no such file"), UsageError.exit_code, "error: no such file\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_errors_become_one_line_and_an_exit_code(
    error: BaseException | None, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ends(error) == code
    assert capsys.readouterr().err == said


def test_other_exceptions_are_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        exit_code(lambda: 1 / 0)
