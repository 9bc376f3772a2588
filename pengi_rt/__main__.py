"""``pengi-rt`` and ``python -m pengi_rt``: the command line as a process."""

import signal
import sys


def main() -> int:
    """Import and run the command line; Ctrl-C prints one line, even during the imports."""
    try:
        from pengi_rt.system.interrupt import remember_interrupts

        remember_interrupts()
        from pengi_rt.cli.main import main as run

        return run()
    except KeyboardInterrupt:
        print("pengi-rt: interrupted", file=sys.stderr)
        return 130
    finally:  # the work is done: an error during interpreter shutdown is not worth a traceback
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())
