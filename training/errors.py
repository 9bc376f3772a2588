"""What can go wrong in a run, beside the errors of :mod:`pengi_rt.errors`."""

from pengi_rt.errors import PengiError


class TrainingError(PengiError):
    """A run that cannot go on: its disk, its state, or its numbers (exit 5)."""
