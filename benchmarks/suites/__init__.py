"""The suites, a file for each operation or for a few that share their inputs."""

from __future__ import annotations

import importlib
import pkgutil

from benchmarks.suite import Suite

# By name, which is the file's. Their order is that of the results.
SUITES: dict[str, Suite] = {
    name: importlib.import_module(f"{__name__}.{name}").SUITE for _, name, _ in pkgutil.iter_modules(__path__)
}
