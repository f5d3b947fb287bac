"""What README.md, docs/ and docstrings show runs, what they link to is there, and what they leave out."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import inspect
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import dark_kernels

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)")


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def what_readers_have() -> dict[str, Any]:
    """What the pages don't define: a network and the variables of the pipelines that a drop-in goes into."""
    heatmaps = torch.rand(8, 17, 64, 48)
    return {
        "torch": torch,
        "network": lambda images: heatmaps,
        "images": torch.rand(8, 3, 256, 192),
        "heatmaps": heatmaps,
        # DarkPose
        "config": SimpleNamespace(TEST=SimpleNamespace(BLUR_KERNEL=11)),
        "output": heatmaps,
        "center": torch.full((8, 2), 100.0),
        "scale": torch.ones(8, 2),
        # transformers
        "processor": SimpleNamespace(size={"width": 192, "height": 256}),
        "outputs": SimpleNamespace(heatmaps=heatmaps),
        "boxes": [[[10.0, 20.0, 96.0, 128.0]]] * 8,
    }


@pytest.mark.parametrize("page", [page for page in PAGES if BLOCK.search(text_of(page))])
def test_python_blocks_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, in one session."""
    monkeypatch.chdir(tmp_path)
    images = [{"id": image, "width": 640, "height": 480} for image in range(8)]
    dataset = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "person"}]}
    Path("person_keypoints_val2017.json").write_text(json.dumps(dataset), encoding="utf-8")
    torch.manual_seed(0)
    names = what_readers_have()
    for match in BLOCK.finditer(text_of(page)):
        code = match[1]
        if "oks_average_precision" in code and importlib.util.find_spec("faster_coco_eval") is None:
            continue
        line = text_of(page).count("\n", 0, match.start(1))
        exec(compile("\n" * line + code, page, "exec"), names)  # so that a traceback names the page's line


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for path, anchor in LINK.findall(text_of(page)):
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


ROOMS = sorted(path.parent.name for path in (ROOT / "dark_kernels").glob("*/api.py"))


METRICS = sorted(path.stem for path in (ROOT / "dark_kernels" / "metrics").glob("[!_]*.py"))
WITH_EXAMPLES = [
    *(f"{room}.api" for room in ROOMS), *(f"metrics.{name}" for name in METRICS), "draw", "draw.drawing",
    "recipes", "testing", "transforms",
]  # fmt: skip


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_in_docstrings_run(name: str) -> None:
    module = importlib.import_module(f"dark_kernels.{name}")
    result = doctest.testmod(module)
    assert result.failed == 0
    assert result.attempted == Path(str(module.__file__)).read_text(encoding="utf-8").count(">>> ")


FUNCTIONS = [name for name in dark_kernels.__all__ if inspect.isfunction(getattr(dark_kernels, name))]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstrings_of_functions_are_whole(name: str) -> None:
    function = getattr(dark_kernels, name)
    text = inspect.cleandoc(function.__doc__)  # Python 3.13 does that itself
    for section in ("Args", "Returns", "Raises", "Example"):
        assert f"\n{section}:\n" in text
    for parameter in inspect.signature(function).parameters:
        assert f"    {parameter}: " in text
