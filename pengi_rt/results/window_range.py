"""Which windows of a recording a partial result covers."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WindowRange:
    """Consecutive windows of a recording."""

    first: int
    """Index of the first of them."""
    count: int
    """How many they are."""
    total: int
    """How many the recording has."""

    @property
    def is_first(self) -> bool:
        """Whether the recording begins with them."""
        return self.first == 0

    @property
    def is_last(self) -> bool:
        """Whether the recording ends with them."""
        return self.first + self.count == self.total
