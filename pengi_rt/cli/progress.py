"""Progress bars on a terminal: one for many recordings, one for a long one's windows."""

import os
import sys
from typing import TYPE_CHECKING, Any, Self

from pengi_rt.system.quote import one_line

if TYPE_CHECKING:
    from pengi_rt.results.window_range import WindowRange

_NAME = 24  # characters
_LARGE = 10 << 20  # bytes of a file that takes more than a moment to read


def _is_watched() -> bool:
    return sys.stderr.isatty()


class Progress:
    """A bar for the recordings, if there are several, and one below it for a long recording.

    Nothing is drawn unless standard error is a terminal.
    """

    def __init__(self, recordings: int, *, quiet: bool) -> None:
        self._hidden = quiet or not _is_watched()
        self._total = recordings
        self._recordings: Any = None
        self._windows: Any = None
        self._reading: Any = None

    def __enter__(self) -> Self:
        from tqdm import tqdm

        hidden = self._hidden or self._total == 1
        self._recordings = tqdm(total=self._total, unit="clip", disable=hidden)
        return self

    def __exit__(self, *_: object) -> None:
        self._end_reading()
        self._end_windows()
        self._recordings.close()

    def read(self, name: str) -> None:
        """Show that the recording ``name`` is being read, before its first window is answered."""
        self._end_reading()
        if not self._hidden and _is_large(name):
            from tqdm import tqdm

            self._reading = tqdm(desc=f"reading {_short(name)}", bar_format="{desc}", leave=False)

    def update(self) -> None:
        """Count a recording whose rows are complete."""
        self._end_reading()
        self._end_windows()
        self._recordings.update()

    def follow(self, name: str, window_range: "WindowRange | None") -> None:
        """Count answered windows of the recording ``name``."""
        self._end_reading()
        if window_range is None or self._hidden:
            return
        if self._windows is None:
            from tqdm import tqdm

            self._windows = tqdm(
                total=window_range.total, unit="window", desc=_short(name), leave=False
            )
        self._windows.update(window_range.count)

    def _end_windows(self) -> None:
        if self._windows is not None:
            self._windows.close()
            self._windows = None

    def _end_reading(self) -> None:
        if self._reading is not None:
            self._reading.close()
            self._reading = None


def _short(name: str) -> str:
    return one_line(name.rsplit("/", 1)[-1], _NAME)


def _is_large(name: str) -> bool:
    try:
        return os.stat(name).st_size > _LARGE  # noqa: PTH116 - Path cannot be every name
    except (OSError, ValueError):
        return False
