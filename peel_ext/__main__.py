"""``python -m peel_ext``: the ``peel`` command, as ``torchrun -m peel_ext`` starts it."""

from __future__ import annotations

import sys

from peel_ext.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
