"""``python -m pengi_rt``: the command line."""

import sys

from pengi_rt.cli.main import main

sys.exit(main())
