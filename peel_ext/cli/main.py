"""Entry point of the ``peel`` command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from peel_ext.cli import doctor, evaluate, export, inspect, recommend, train
from peel_ext.errors import PeelError

_VERBS = (train, evaluate, export, inspect, recommend, doctor)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb.

    Results go to stdout, narration to stderr.

    Returns:
        0, or 1 after an expected error told in one line, or 130 when interrupted. A usage error
        exits with 2.
    """
    parser = argparse.ArgumentParser(
        prog="peel", description="Personalized Elastic Embeddings: train once, serve every budget."
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for verb in _VERBS:
        verb.add_parser(verbs)
    options = parser.parse_args(arguments)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
        return code
    except (PeelError, ValueError, IndexError) as error:
        if not isinstance(error, PeelError) and os.environ.get("PEEL_DEBUG"):
            raise
        print(f"peel: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("peel: interrupted; finished stages are kept", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _discard_output()
        return 1
    except OSError as error:
        # Inputs and run folders name themselves; what is left is the output.
        print(f"peel: cannot write the result: {error.strerror or error}", file=sys.stderr)
        _discard_output()
        return 1


def _discard_output() -> None:
    """Lets the interpreter's last flush of stdout go nowhere instead of failing again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
