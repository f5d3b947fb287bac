"""What goes wrong, told in a line. Imports nothing that takes time."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any


class UserError(Exception):
    """Something that the user can put right. Its text is one line, and no traceback goes with it."""


def one_line(error: BaseException | str) -> str:
    """The first sentence or so of a message, on one line."""
    text = " ".join((str(error).strip() or type(error).__name__).splitlines()[0].split())
    return text if len(text) <= 300 else text[:297] + "..."


def shown(path: Path) -> str:
    """A path for messages: quoted, so that spaces, line breaks and undecodable bytes can be seen."""
    return repr(str(path))


def require(module: str, extra: str = "cli") -> Any:
    """Import a module of an extra.

    Raises:
        UserError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise UserError(f"{package} is needed here: pip install 'dark-kernels[{extra}]' ({one_line(error)})") from error
