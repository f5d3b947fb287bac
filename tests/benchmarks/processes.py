"""Processes of their own, for what Triton compiles: the tests' one may have its interpreter in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments, from the repository root."""
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT, env={**inherited, **environment}, capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
