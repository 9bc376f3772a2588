"""Which windows of a recording a partial result covers."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WindowRange:
    """Consecutive windows of a recording."""

    first: int
    """Index of the first window."""
    count: int
    """The number of windows."""
    total: int
    """The number of windows in the whole recording."""

    @property
    def is_first(self) -> bool:
        """Whether these are the recording's first windows."""
        return self.first == 0

    @property
    def is_last(self) -> bool:
        """Whether these are the recording's last windows."""
        return self.first + self.count == self.total
