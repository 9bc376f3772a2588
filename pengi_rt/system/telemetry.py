"""Turn off usage reports of libraries, before anything imports them.

onnxruntime reports from version 1.29 on, as soon as it is imported: it keeps a permanent id and a
database in ``~/.cache/Microsoft``, starts threads, and contacts its collector after some seconds.
Only the environment at the first import counts: with the variable, 1.32 opens no socket; without it
five, even if ``disable_telemetry_events()`` is called next.
"""

import os
import sys

VARIABLES = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY")


def disable_telemetry() -> None:
    """Set each of ``VARIABLES`` to 1, unless the user has set it; warn if that is too late."""
    too_late = "onnxruntime" in sys.modules and "ORT_DISABLE_TELEMETRY" not in os.environ
    for name in VARIABLES:
        os.environ.setdefault(name, "1")
    if too_late:
        import logging

        logging.getLogger(__name__).warning(
            "onnxruntime was imported before pengi_rt and may report usage to its maker: "
            "import pengi_rt first, or set ORT_DISABLE_TELEMETRY=1"
        )
