"""decode has loops for Numba: where its tests run, they run as well."""

from __future__ import annotations

import pytest
import torch

from ..conftest import SERVICES_WITH_LOOPS, require_service


@pytest.fixture(params=SERVICES_WITH_LOOPS)
def service(request: pytest.FixtureRequest) -> tuple[str, torch.device]:
    """A backend and a device that it serves on this machine."""
    backend, kind = request.param
    return backend, require_service(backend, kind)
