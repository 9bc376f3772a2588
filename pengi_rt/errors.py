"""The errors a user can cause, each with the exit code that the command line gives it.

Every message is one line that says what was wrong, where, and what to do about it. The command line
prints it and exits; nobody sees a traceback for a mistake that is not ours.
"""

from typing import ClassVar, Final

from pengi_rt.system.quote import message

INTERRUPTED: Final = 130
"""The exit code after Ctrl-C, as a shell has it."""

OUT_OF_MEMORY: Final = (
    "ran out of memory: ask less at a time (a smaller --batch-size or batch_size, fewer beams), or "
    "free some"
)
"""How messages end when memory ran out."""


class PengiError(Exception):
    """Base of every error that pengi-rt raises on purpose.

    Its text is one line without control characters, whatever names and values stand in it.
    """

    exit_code: ClassVar[int] = 5

    def __str__(self) -> str:
        """The message."""
        return message(super().__str__())


class UsageError(PengiError, ValueError):
    """An invalid option or argument (exit 2)."""

    exit_code = 2


class InputError(PengiError):
    """An input was refused (exit 3)."""

    exit_code = 3


class AudioError(InputError):
    """A recording that cannot be read, or holds nothing that can be answered."""


class PromptError(InputError):
    """A prompt that cannot be tokenised, or does not fit."""


class CheckpointError(InputError):
    """A checkpoint that cannot be read, or is not the model it should be."""


class TokenizerError(InputError):
    """Tokenizer files that are missing or are not what the model needs."""


class DownloadError(InputError):
    """A download that failed, or whose bytes are not the expected ones."""


class PlanError(PengiError):
    """A file that is no plan, is damaged, or has a format this version does not read (exit 5)."""


class BackendError(PengiError):
    """A backend, device or precision that is not available here (exit 5)."""


class ExportError(PengiError):
    """An export that failed its own numeric self-test (exit 5)."""


def missing_module(error: ModuleNotFoundError) -> str:
    """The module that is not installed.

    Raises:
        ModuleNotFoundError: it names none: an import was interrupted.
    """
    if error.name is None:
        raise error
    return error.name
