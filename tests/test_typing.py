"""Types are those of what runs: `make lint` holds them against README.md and against `types_of_calls.py`."""

from __future__ import annotations

import ast
import importlib.resources
import inspect
import typing
from pathlib import Path

import pytest

import dark_kernels
from dark_kernels import recipes, types
from dark_kernels._common import names

from . import types_of_calls
from .typed_pages import module_of

SEEN = ast.parse(Path(types.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))


def test_types_are_shipped() -> None:
    assert (importlib.resources.files(dark_kernels) / "py.typed").is_file()


@pytest.mark.parametrize("name", [each.name for each in SEEN.body if isinstance(each, ast.ClassDef)])
def test_checkers_see_the_results_that_there_are(name: str) -> None:
    """Fields in their order, and methods with their parameters."""
    (seen,) = (each for each in SEEN.body if isinstance(each, ast.ClassDef) and each.name == name)
    result = getattr(types, name)
    fields = [ast.unparse(each.target) for each in seen.body if isinstance(each, ast.AnnAssign)]
    assert tuple(fields) == result._fields
    optional = [ast.unparse(each.target) for each in seen.body if isinstance(each, ast.AnnAssign) and each.value]
    assert optional == list(result._field_defaults)
    methods = {each.name: ast.unparse(each.args) for each in seen.body if isinstance(each, ast.FunctionDef)}
    mine = {each: method for each, method in vars(result).items() if inspect.isfunction(method) and each[0] != "_"}
    assert set(methods) == set(mine)


def test_every_result_is_seen() -> None:
    assert {each.__name__ for each in types._TYPES} == {
        each.name for each in SEEN.body if isinstance(each, ast.ClassDef)
    }


def test_names_of_recipes_are_those_of_the_rows() -> None:
    assert typing.get_args(names.RecipeName) == tuple(recipe.name for recipe in recipes.ALL)


def test_calls_run() -> None:
    types_of_calls.of_decoding()
    types_of_calls.of_flags(True)
    types_of_calls.of_names()
    types_of_calls.of_other_rooms()
    types_of_calls.of_metrics()


def test_pages_are_modules_with_the_lines_of_the_page() -> None:
    module = module_of("README.md")
    ast.parse(module)
    page = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8").splitlines()
    place = page.index("import dark_kernels")
    assert module.splitlines()[place] == "import dark_kernels"
