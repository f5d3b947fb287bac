"""Writes what README.md shows as a module, for type checkers: `python -m tests.typed_pages FOLDER`.

Lines keep their numbers: a checker's message names the page's line.
"""

from __future__ import annotations

import sys
from pathlib import Path

from .test_docs import BLOCK, text_of

# What the page does not define, in one line: its first is no code.
READERS_HAVE = (
    "import torch; from typing import Any; from torch import Tensor; "
    "heatmaps: Tensor = torch.rand(8, 17, 64, 48); processor: Any = None; outputs: Any = None; boxes: Any = None"
)


def module_of(page: str) -> str:
    """The page's blocks at their lines, behind what its readers have."""
    text = text_of(page)
    lines = [""] * text.count("\n")
    lines[0] = READERS_HAVE
    for match in BLOCK.finditer(text):
        first = text.count("\n", 0, match.start(1))
        block = match[1].splitlines()
        lines[first : first + len(block)] = block
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "readme.py").write_text(module_of("README.md"), encoding="utf-8")
