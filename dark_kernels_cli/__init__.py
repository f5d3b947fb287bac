"""The command `dark-kernels`. A package of its own: importing `dark_kernels` imports PyTorch, which takes seconds that
`--help` need not take.

`app.py` has the commands and their options; what they do is in a module each, imported when a command runs.
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
        import rich  # noqa: F401  (what a command needs is told before it begins)

        from .app import app
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
