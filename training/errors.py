"""Errors of a training run, in addition to those of :mod:`pengi_rt.errors`."""

from pengi_rt.errors import PengiError


class TrainingError(PengiError):
    """A run cannot continue because of its disk, its state, or its numbers (exit 5)."""
