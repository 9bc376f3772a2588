"""Write the table of compiled kernels into ``docs/kernels.md``: ``python kernel_table.py``.

Text outside its two marks is kept.
"""

import sys
import tempfile
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from kernel_builds import Compiled, compile_kernels, first_builds, kernel_modules

DOCUMENT = Path(__file__).parents[2] / "docs" / "kernels.md"
BEGIN = "<!-- table: tests/support/kernel_table.py -->\n"
END = "<!-- end of table -->\n"
HEAD = """\
| build | architecture | registers | stack (bytes) | shared (KiB) |
|---|---|---|---|---|
"""


def table_of(compiled: Sequence[Compiled]) -> str:
    """One row per build; architectures are separated where they differ."""
    return HEAD + "".join(
        _row(name, list(group)) for name, group in groupby(compiled, key=lambda c: c.name)
    )


def _row(name: str, group: Sequence[Compiled]) -> str:
    columns = (
        [f"sm_{c.capability}" for c in group],
        [f"{c.registers}" for c in group],
        [f"{c.stack}" for c in group],
        [f"{c.shared / 1024:.1f}" for c in group],
    )
    cells = [" / ".join(column if len(set(column)) > 1 else column[:1]) for column in columns]
    return f"| {name} | {' | '.join(cells)} |\n"


def replaced(document: str, table: str) -> str:
    """``document`` with ``table`` between the marks.

    Raises:
        ValueError: the document does not have both marks, once and in order.
    """
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in after:
        raise ValueError(f"docs/kernels.md needs the lines {BEGIN!r} and {END!r}, once")
    return before + BEGIN + table + END + after


def main() -> None:
    """Compile a build of every kernel and rewrite the document."""
    document = DOCUMENT.read_text("utf-8")
    replaced(document, "")
    with tempfile.TemporaryDirectory() as cache:
        names = [build.name for module in kernel_modules() for build in first_builds(module)]
        compiled = compile_kernels(kernel_modules(), Path(cache), names=names)
    DOCUMENT.write_text(replaced(document, table_of(compiled)), "utf-8")
    print(f"{DOCUMENT}: {len(compiled)} rows", file=sys.stderr)


if __name__ == "__main__":
    main()
