"""Search by words: captions with words of the query, ranked by BM25.

SQLite's full-text index (FTS5, English stems, matching any of the words) is built in memory from
the captions of each open index, which takes a second for 100 000 captions.
"""

import re
from collections.abc import Iterable

import numpy as np

from pengi_rt.backends.protocol import F32, I64
from pengi_rt.config.checked import argument, require
from pengi_rt.errors import BackendError, PromptError

_MOST = 2**62  # rows; SQLite's integers go up to twice as many
_WORD = re.compile(r"\w+")


class Words:
    """A word index of captions."""

    def __init__(self, captions: Iterable[str]) -> None:
        """Index ``captions``, which are numbered in order.

        Raises:
            BackendError: this Python's SQLite has no full-text index.
        """
        import sqlite3  # only needed to search by words

        self._database = sqlite3.connect(":memory:", check_same_thread=False)
        try:
            self._database.execute(
                "CREATE VIRTUAL TABLE captions USING fts5(text, tokenize='porter unicode61')"
            )
        except sqlite3.OperationalError as error:
            raise BackendError(
                f"searching by words needs SQLite with FTS5, which this Python's lacks ({error}); "
                "search by captions"
            ) from None
        self._database.executemany(
            "INSERT INTO captions(rowid, text) VALUES (?, ?)",
            enumerate(_storable(text) for text in captions),
        )

    def nearest(self, query: str, k: int) -> tuple[F32, I64]:
        """Scores and numbers of the ``k`` captions that match ``query`` best, best first.

        There are fewer if fewer captions share a word with the query. Scores are BM25's, above 0;
        ties are in the order of the captions.

        Raises:
            UsageError: ``k`` is not a whole number of at least 1.
            PromptError: the query is not a string, or has no word.
        """
        k = argument("k", k, int)
        require(k >= 1, f"k must be at least 1, got {k}")
        if not isinstance(query, str):
            raise PromptError(f"the query must be a string, got {type(query).__name__}")
        words = _WORD.findall(_storable(query))
        if not words:
            raise PromptError(f"the query has no words: {query[:40]!r}")
        found = self._database.execute(
            "SELECT -bm25(captions), rowid FROM captions WHERE captions MATCH ? "
            "ORDER BY bm25(captions), rowid LIMIT ?",
            (" OR ".join(f'"{word}"' for word in words), min(k, _MOST)),
        ).fetchall()
        scores, numbers = zip(*found, strict=True) if found else ((), ())
        return np.array(scores, np.float32), np.array(numbers, np.int64)


def _storable(text: str) -> str:
    """SQLite does not accept lone surrogates; no word has any."""
    return text.encode("utf-8", "replace").decode()
