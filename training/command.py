"""What the commands of this room (``python -m pengi_rt.training...``) share."""

import sys
from collections.abc import Callable

from pengi_rt.errors import INTERRUPTED, PengiError


def exit_code(work: Callable[[], object]) -> int:
    """Do ``work``; 0, or an error of ours or Ctrl-C as one line on stderr and its exit code."""
    try:
        work()
    except PengiError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0
