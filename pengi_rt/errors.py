"""The errors a user can cause, each with its exit code on the command line.

Every message is one line that says what was wrong, where, and what to do about it. The command line
prints it and exits; a user's mistake never shows a traceback.
"""

from typing import ClassVar, Final

from pengi_rt.system.quote import message

SOME_FAILED: Final = 4
"""The exit code when some inputs were refused, and the others answered."""

INTERRUPTED: Final = 130
"""The exit code after Ctrl-C, as in a shell."""

OUT_OF_MEMORY: Final = (
    "ran out of memory: do less at a time (a smaller --batch-size or batch_size, fewer beams), or "
    "free some"
)
"""The end of every out-of-memory message."""


class PengiError(Exception):
    """Base of every error that pengi-rt raises on purpose.

    Its text is one line without control characters, whatever names and values it quotes.
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
    """A recording that cannot be read, or is empty."""


class PromptError(InputError):
    """A prompt that cannot be tokenized, or is too long."""


class CheckpointError(InputError):
    """A checkpoint that cannot be read, or holds a different model."""


class TokenizerError(InputError):
    """Tokenizer files that are missing, or do not fit the model."""


class DownloadError(InputError):
    """A download that failed, or whose checksum is wrong."""


class PlanError(PengiError):
    """A file that is not a plan, is damaged, or has a format unknown to this version (exit 5)."""


class BackendError(PengiError):
    """A backend, device or precision that is not available here (exit 5)."""


class ExportError(PengiError):
    """An export that failed its own numeric self-test (exit 5)."""


def missing_module(error: ModuleNotFoundError) -> str:
    """The name of the module that is not installed.

    Raises:
        ModuleNotFoundError: ``error`` itself, if it names no module: the import was interrupted.
    """
    if error.name is None:
        raise error
    return error.name
