"""Entry point of the ``peel`` command."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import sys
from collections.abc import Sequence

from peel_ext import __version__
from peel_ext.errors import ElsewhereError, PeelError, RankError

#: What several processes do together.
_SHARED_VERBS = ("train", "evaluate")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb.

    Results go to stdout, narration to stderr.

    Returns:
        0, or 1 after an expected error told in one line, or 130 when interrupted. A usage error
        exits with 2.
    """
    together = False
    try:
        options = _parser().parse_args(arguments)
        from peel_ext.threads import check_environment

        check_environment()
        if not getattr(options, "shard", None):  # a part is somebody's own
            together = int(os.environ.get("WORLD_SIZE", "1")) > 1
            _check_processes(options.verb)
        code: int = options.run(options)
        sys.stdout.flush()
        return code
    except ElsewhereError:
        return 1
    except (PeelError, ValueError, IndexError) as error:
        if not isinstance(error, PeelError) and os.environ.get("PEEL_DEBUG"):
            raise
        if not together or _tells_of(error):
            print(f"peel: {error}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:
        lacking = _lacking_memory(error)
        if lacking is None or os.environ.get("PEEL_DEBUG"):
            raise
        print(f"peel: {lacking}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print(": ".join(["peel: interrupted", *map(str, interrupt.args)]), file=sys.stderr)
        return 130
    except BrokenPipeError:
        _discard_output()
        return 1
    except OSError as error:
        # Inputs and run folders name themselves; what is left is the output.
        where = f" {error.filename}" if error.filename else ""
        print(f"peel: cannot write the result{where}: {error.strerror or error}", file=sys.stderr)
        _discard_output()
        return 1


def _parser() -> argparse.ArgumentParser:
    # Not at the top: imports take a while, in which an interruption should be told in one line, too.
    from peel_ext.cli import (
        bundle,
        doctor,
        evaluate,
        export,
        inspect,
        recommend,
        report,
        similar,
        train,
        vectors,
    )

    parser = argparse.ArgumentParser(
        prog="peel", description="Personalized Elastic Embeddings: train once, serve every budget."
    )
    parser.add_argument("--version", action="version", version=f"peel_ext {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB", dest="verb")
    for verb in (
        train,
        evaluate,
        report,
        export,
        bundle,
        inspect,
        recommend,
        similar,
        vectors,
        doctor,
    ):
        verb.add_parser(verbs)
    for each in verbs.choices.values():  # docstrings mark code as reStructuredText does
        each.description = (each.description or "").replace("``", "'")
    return parser


def _check_processes(verb: str) -> None:
    """Refuses to do over and over, beside each other, what one process is to do once."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count > 1 and verb not in _SHARED_VERBS:
        raise ValueError(
            f"'peel {verb}' is done by one process, and torchrun has started {count}: expected "
            f"{' or '.join(_SHARED_VERBS)}"
        )


def _tells_of(error: Exception) -> bool:
    """True if this process, of several that have the same to tell, is the one that does."""
    if isinstance(error, RankError):  # of the others nothing is known
        return True
    try:
        from peel_ext.scale.meeting import tells_of_error
    except ImportError:  # without torch
        return True
    return tells_of_error()


def _lacking_memory(error: Exception) -> str | None:
    """What to say where memory has run out, by the words of NumPy and torch; None for other errors."""
    wanted = re.search(r"allocate ([0-9.]+ [A-Za-z]+)", str(error))
    if not wanted:
        return "not enough memory" if isinstance(error, MemoryError) else None
    return f"not enough memory: {wanted[1]} more were asked for"


def _discard_output() -> None:
    """Lets the interpreter's last flush of stdout go nowhere instead of failing again."""
    with contextlib.suppress(io.UnsupportedOperation):  # where it is no file, in another program
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
