"""The command `dark-kernels`, also `python -m dark_kernels`: demo, decode, info, recipes.

Only the way in. What the command needs is an extra, so its absence must be told in a line, not a traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and leave by SystemExit: 0, 2 for what the user can put right, 130 after Ctrl-C.

    Args:
        arguments: Without the program's name; None takes those of the process.
    """
    try:
        from ._cli.commands import app
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("typer", "rich", "click"):
            raise
        print(
            f"dark-kernels: error: the command line needs {missing}, which is not installed: "
            "pip install 'dark-kernels[cli]'",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    app(None if arguments is None else list(arguments), prog_name="dark-kernels")
    raise SystemExit(0)
