"""Who imports whom: downwards only, and Triton in two places.

    cli, integrations, nn  ->  <op>/api  ->  <op>/library  ->  <op>/eager, <op>/kernels  ->  _triton, _common

The rules read the source, so an import inside a function counts as well.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import dark_kernels

ROOT = Path(dark_kernels.__file__).parent
FILES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
# Folders that are one operation each.
ROOMS = sorted({path.parts[0] for path in FILES if len(path.parts) > 1 and path.name == "api.py"})

# Of each file of a room: what it may import of its own room, and of the package.
ALLOWED: dict[str, tuple[set[str], set[str]]] = {
    "__init__.py": ({"api", "api_mixture", "reference", "reference_mixture"}, set()),
    "api.py": (
        {"library", "options", "reference"},
        {
            "_common.checks",
            "_common.inputs",
            "_common.kappas",
            "_common.names",
            "_common.plans",
            "_common.units",
            "backends",
            "recipes",
            "types",
        },
    ),
    "api_mixture.py": (
        {"library_mixture", "options", "reference_mixture"},
        {"_common.checks", "_common.names", "_common.units", "backends"},
    ),
    "library.py": (
        {"compiled", "eager", "eager_voting", "kernels", "kernels_linear", "kernels_voting", "options"},
        {"_common.operators", "_common.plans", "backends", "recipes"},
    ),
    "library_mixture.py": (
        {"eager_mixture", "kernels_mixture", "library", "options"},
        {"_common.operators", "backends"},
    ),
    "compiled.py": ({"compiled_loops", "options"}, {"_common.compiled", "recipes"}),
    "compiled_loops.py": (set(), {"_common.compiled"}),
    "eager.py": (
        {"eager_blob", "eager_plan", "eager_scores", "eager_search", "eager_steps", "options"},
        {"_common.lines", "_common.products", "_common.targets", "recipes"},
    ),
    "eager_blob.py": ({"eager_plan", "eager_scores", "eager_steps"}, {"_common.products"}),
    "eager_mixture.py": ({"eager", "options"}, set()),
    "eager_plan.py": (set(), {"recipes"}),
    "eager_scores.py": ({"eager_plan"}, set()),
    "eager_search.py": ({"eager_plan", "eager_scores"}, {"_common.lines", "_common.products", "recipes"}),
    "eager_steps.py": ({"eager_plan", "eager_scores"}, {"_common.products"}),
    "eager_voting.py": (set(), set()),
    "kernels.py": ({"options"}, {"_common.plans", "_triton", "recipes"}),
    "kernels_linear.py": ({"kernels", "options"}, {"_triton"}),
    "kernels_mixture.py": ({"kernels", "options"}, {"_triton"}),
    "kernels_voting.py": (set(), {"_triton"}),
    "options.py": (set(), set()),
    "reference.py": ({"options"}, {"_common.products", "_common.targets", "recipes"}),
    "reference_mixture.py": ({"reference"}, set()),
}
# Files of these names tell what the reference does in another way.
BACKENDS = ("compiled", "eager", "kernels")
# A room that begins where another ends takes its steps, from the file of the same name. These are told once.
STANDS_ON = {"peaks": "decode"}
STEPS = {"reference.py", "eager.py"}
# Of eager and kernels in `recipes`: numbers, no names of recipes.
NUMBERS_ONLY = {"OperatorRecipe"}


def imports(path: Path) -> list[tuple[str, frozenset[str]]]:
    """Absolute names of the modules that a file imports, and the names that it takes from each."""
    package = ["dark_kernels", *path.parts[:-1]]
    found: list[tuple[str, frozenset[str]]] = []
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, frozenset()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = frozenset(alias.name for alias in node.names)
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # from . import eager, from .. import recipes, or from .._common import checks
            if node.level and node.module in (None, "_common"):
                found += [(f"{module}.{name}", frozenset()) for name in names]
            else:
                found.append((module, names))
    return found


def inside(path: Path) -> list[tuple[str, frozenset[str]]]:
    """Imports of the package itself, without its name."""
    return [
        (module.removeprefix("dark_kernels").lstrip("."), names)
        for module, names in imports(path)
        if module == "dark_kernels" or module.startswith("dark_kernels.")
    ]


def part_of(module: str) -> str:
    """A module's part of the package: its folder or file, and of `_common` the file in it."""
    parts = module.split(".")
    return ".".join(parts[:2] if parts[0] == "_common" else parts[:1])


def test_the_rules_see_the_imports() -> None:
    assert ("decode.library", frozenset({"decode_directly", "decode_operator"})) in inside(Path("decode/api.py"))
    assert ("decode.kernels", frozenset()) in inside(Path("decode/library.py"))
    assert "decode" in ROOMS


@pytest.mark.parametrize("path", FILES, ids=str)
def test_triton_is_imported_in_two_places(path: Path) -> None:
    uses = any(module.split(".")[0] == "triton" for module, _ in imports(path))
    assert not uses or path.name.startswith("kernels") or path.parts[0] == "_triton"


@pytest.mark.parametrize("path", FILES, ids=str)
def test_numba_is_imported_in_one_place(path: Path) -> None:
    """By what is imported itself when it first serves a call."""
    assert (path.as_posix() == "_common/compiled.py") == any(
        module.split(".")[0] == "numba" for module, _ in imports(path)
    )
    if any(module in ("_common.compiled", "_common/compiled") for module, _ in inside(path)):
        assert path.name.startswith("compiled")


@pytest.mark.parametrize("path", FILES, ids=str)
def test_registers_are_limited_in_one_place(path: Path) -> None:
    """Rooms name their work, and `_triton/registers.py` has the number."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    words |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword)}
    assert ("maxnreg" in words) == (path.as_posix() == "_triton/registers.py")


# What multiplies matrices, by itself or inside: a setting of the process may round it.
PRODUCTS = {
    "addbmm", "addmm", "addmv", "addr", "baddbmm", "bilinear", "bmm", "cdist", "chain_matmul", "conv1d", "conv2d",
    "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution", "corrcoef", "cov", "dot",
    "einsum", "inner", "linear", "lstsq", "matmul", "matrix_exp", "matrix_power", "mm", "multi_dot", "mv", "pinv",
    "scaled_dot_product_attention", "tensordot", "vdot", "vecdot",
    "Bilinear", "Conv1d", "Conv2d", "Conv3d", "Linear", "MultiheadAttention",
}  # fmt: skip
# The network's own layer, which follows what the user has set.
LAYERS = {("nn/heads.py", "conv2d")}


def products(source: str) -> list[tuple[int, str]]:
    """Lines with a product of matrices, and what it is called there."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.BinOp, ast.AugAssign)) and isinstance(node.op, ast.MatMult):
            found.append((node.lineno, "@"))
        elif isinstance(node, ast.Attribute) and node.attr.rstrip("_") in PRODUCTS:
            found.append((node.lineno, node.attr))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            found += [(node.lineno, alias.name) for alias in node.names if alias.name in PRODUCTS]
    return found


@pytest.mark.parametrize("path", FILES, ids=str)
def test_products_of_matrices_are_made_in_one_place(path: Path) -> None:
    """`products.product`: a bare one is rounded to bfloat16 wherever the process was told that it may be."""
    if path.as_posix() == "_common/products.py" or path.name.startswith("kernels") or path.parts[0] == "_triton":
        return  # what makes them, and what is Triton's
    found = products((ROOT / path).read_text(encoding="utf-8"))
    assert [(path.as_posix(), name) for _, name in found] == sorted(x for x in LAYERS if x[0] == path.as_posix()), found


@pytest.mark.parametrize(
    "source",
    [
        "a @ b", "a @= b", "torch.mm(a, b)", "a.bmm(b)", "torch.einsum('ij,jk', a, b)", "from torch import matmul",
        "F.linear(a, b)", "torch.nn.functional.conv2d(a, b)", "f(torch.addmm)", "a.addmm_(b, c)",
        "from torch.nn.functional import conv1d", "nn.Linear(1, 2)", "torch.linalg.multi_dot([a, b])",
    ],
)  # fmt: skip
def test_the_rules_see_products_of_matrices(source: str) -> None:
    assert len(products(source)) == 1


def jitted(path: Path) -> list[ast.FunctionDef]:
    """Functions that Triton compiles."""
    return [
        node
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and any("triton.jit" in ast.unparse(each) for each in node.decorator_list)
    ]


def test_kernels_are_given_things_and_not_seventy_numbers() -> None:
    """Structs: nobody counts commas."""
    counts = {f"{path}:{function.name}": len(function.args.args) for path in FILES for function in jitted(path)}
    assert len(counts) > 150
    assert {name: count for name, count in counts.items() if count > 20} == {}
    assert sum(counts.values()) / len(counts) < 6
    for path in FILES:
        if path.name.startswith("kernels") or path.parts[0] == "_triton":
            assert "# fmt: skip" not in (ROOT / path).read_text(encoding="utf-8"), path


def test_structs_are_what_triton_takes() -> None:
    """Triton's own tuple has `values` and `type`, which a field would hide, and knows no methods. The interpreter does
    not mind either."""
    num_structs = 0
    for path in FILES:
        if not path.name.startswith("kernels") and path.parts[0] != "_triton":
            continue
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and "NamedTuple" in map(ast.unparse, node.bases):
                num_structs += 1
                fields = {each.target.id for each in node.body if isinstance(each, ast.AnnAssign)}  # type: ignore[attr-defined]
                assert not fields & {"values", "type"}, f"{path}: {node.name}"
                assert ast.get_docstring(node), f"{path}: {node.name}"
        for function in jitted(path):
            called = [node.func for node in ast.walk(function) if isinstance(node, ast.Call)]
            assert "_replace" not in {each.attr for each in called if isinstance(each, ast.Attribute)}, function.name
    assert num_structs > 40


@pytest.mark.parametrize("path", FILES, ids=str)
def test_kinds_are_asked_for_with_tuples(path: Path) -> None:
    """`isinstance(x, int | float)` is what torch.compile of PyTorch 2.6 does not follow."""
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            assert not isinstance(node.args[1], ast.BinOp), f"{path}:{node.lineno}"


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[0] in ROOMS], ids=str)
def test_rooms_import_downwards(path: Path) -> None:
    room = path.parts[0]
    if path.name not in ALLOWED:
        pytest.skip(f"no rule for {path.name}")
    own, package = ALLOWED[path.name]
    for module, names in inside(path):
        first, _, rest = module.partition(".")
        if first == room:
            assert rest.split(".")[0] in own, f"{path} imports {module}"
        elif path.name in STEPS and first == STANDS_ON.get(room):
            assert rest.split("_")[0] == path.stem, f"{path} imports {module}"
        else:
            assert part_of(module) in package, f"{path} imports {module or 'dark_kernels'}"
            if first == "recipes" and path.name.startswith(BACKENDS):
                assert names <= NUMBERS_ONLY, f"{path} takes {set(names)} from recipes"


@pytest.mark.parametrize("path", [path for path in FILES if path.name.startswith(BACKENDS)], ids=str)
def test_backends_know_no_recipe_by_name(path: Path) -> None:
    constants = {
        node.value
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant)
    }
    words = {"fit", "matched", "quarter", "quarter_legacy"}  # of other fields, and names of recipes as well
    assert not ({recipe.name for recipe in dark_kernels.recipes.ALL} - words) & constants


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("__init__.py", {"data", "draw", "metrics", "nn", "recipes", "transforms", "types", *ROOMS}),
        ("_common/__init__.py", set()),
        ("_common/checks.py", {"_common.names", "recipes"}),
        ("_common/inputs.py", {"_common.checks"}),
        ("_common/compiled.py", set()),
        ("_common/kappas.py", set()),
        ("_common/lines.py", set()),
        ("_common/names.py", set()),
        ("_common/operators.py", {"backends"}),
        ("_common/plans.py", {"backends", "recipes"}),
        ("_common/products.py", set()),
        ("_common/targets/__init__.py", set()),
        ("_common/targets/eager.py", set()),
        ("_common/targets/reference.py", set()),
        ("_common/units.py", {"backends"}),
        ("backends.py", set()),
        ("data/__init__.py", set()),
        ("draw/__init__.py", {"draw"}),
        ("draw/coverage.py", set()),
        ("draw/drawing.py", {"draw", "types"}),
        ("draw/skeletons.py", set()),
        ("draw/surfaces.py", {"draw"}),
        ("recipes.py", set()),
        ("transforms.py", {"_common.checks", "_common.inputs", "_common.names"}),
        ("types.py", set()),
        ("_triton/blur.py", {"_triton"}),
        ("_triton/cells.py", {"_triton"}),
        ("_triton/covariance.py", {"_triton"}),
        ("_triton/fit.py", {"_triton"}),
        ("_triton/gaussian.py", {"_triton"}),
        ("_triton/launch.py", {"_common.plans", "_triton", "backends"}),
        ("_triton/logs.py", {"_triton"}),
        ("_triton/maps.py", {"_triton"}),
        ("_triton/peak.py", {"_triton"}),
        ("_triton/refine.py", {"_triton", "recipes"}),
        ("_triton/registers.py", set()),
        ("_triton/targets.py", {"_triton"}),
        ("_triton/totals.py", {"_triton", "recipes"}),
    ],
)
def test_what_stands_below_imports_nothing_above(path: str, allowed: set[str]) -> None:
    assert {part_of(module) for module, _ in inside(Path(path))} <= allowed


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[0] in ("nn", "metrics")], ids=str)
def test_modules_stand_on_what_users_call(path: Path) -> None:
    """Of a room they see `api` alone: what they can do, users can."""
    for module, _ in inside(path):
        first, _, rest = module.partition(".")
        allowed = (
            rest == "api"
            if first in ROOMS
            else part_of(module)
            in {
                *(
                    path.parts[0],
                    "_common.checks",
                    "_common.inputs",
                    "_common.kappas",
                    "_common.names",
                    "_common.units",
                ),
                *("backends", "recipes", "types"),
            }
        )
        assert allowed, f"{path} imports {module or 'dark_kernels'}"


# Of files that import the package that they are named after.
PACKAGES = {("mmpose", "mmpose.py"), ("supervision", "supervision.py")}


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[0] == "integrations"], ids=str)
def test_integrations_stand_on_what_users_call(path: Path) -> None:
    """And on one other package at most: the one that the file is named after."""
    for module, _ in inside(path):
        first = module.partition(".")[0]
        shared = {"integrations", "_common.names", "recipes", "transforms", "types"}
        allowed = module == first if first in ROOMS else part_of(module) in shared
        assert allowed, f"{path} imports {module or 'dark_kernels'}"
    for module, _ in imports(path):
        top = module.split(".")[0]
        standard = {"torch", "numpy", "dark_kernels"} | set(sys.stdlib_module_names)
        assert top in standard or (top, path.name) in PACKAGES, f"{path} imports {module}"


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[0] == "testing"], ids=str)
def test_testing_needs_torch_only(path: Path) -> None:
    """It is for users, who need neither pytest nor Hypothesis; and it compares with the reference alone."""
    for module, _ in imports(path):
        top = module.split(".")[0]
        assert top in {"torch", "dark_kernels"} or top in sys.stdlib_module_names, f"{path} imports {module}"
    for module, names in inside(path):
        assert part_of(module) in {"_common.products", "testing", "recipes", "types"} or (module, names) == (
            "decode",
            frozenset({"reference"}),
        ), f"{path} imports {module}"


@pytest.mark.parametrize("path", [path for path in FILES if path.name.startswith("reference")], ids=str)
def test_references_import_torch_and_references_only(path: Path) -> None:
    """And what is data: recipes, and the options of their room. And the product of matrices, which is PyTorch's but for
    what a process may have set."""
    outside = {module.split(".")[0] for module, _ in imports(path)} - set(sys.stdlib_module_names)
    assert outside <= {"torch", "dark_kernels"}
    room = path.parts[0]
    below = {f"{STANDS_ON[room]}.reference"} if room in STANDS_ON else set()
    allowed = {
        "_common.products",
        "recipes",
        "_common.targets.reference",
        f"{room}.options",
        f"{room}.reference",
        *below,
    }
    assert {module for module, _ in inside(path)} <= allowed


@pytest.mark.parametrize("path", [path for path in FILES if path.name.startswith(BACKENDS)], ids=str)
def test_backends_know_no_reference(path: Path) -> None:
    """Independent tellings of one truth."""
    own = path.stem.partition("_")[0]
    parts = {part.partition("_")[0] for module, _ in inside(path) for part in module.split(".")}
    assert not parts & {"reference", *BACKENDS} - {own}


def test_no_circles() -> None:
    modules = {".".join(path.with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}
    edges = {name: {module for module, _ in inside(path) if module in modules} for name, path in modules.items()}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join((*above, name))
        if name not in done:
            for below in edges[name] - {name}:
                visit(below, (*above, name))
            done.add(name)

    for name in modules:
        visit(name, ())


# --- what a process says -----------------------------------------------------------------------------------

# They make a tensor on the default device. `as_tensor` leaves what is one where it is.
MAKERS = {
    "arange", "empty", "eye", "full", "hann_window", "linspace", "logspace", "normal", "ones", "rand", "randint",
    "randn", "randperm", "scalar_tensor", "tensor", "zeros",
}  # fmt: skip
# A buffer of a module is made where PyTorch makes parameters.
ON_THE_DEFAULT_DEVICE = {("nn/losses.py", "tensor")}


def calls_without(keyword: str, source: str) -> list[tuple[int, ast.Call]]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and keyword not in {each.arg for each in node.keywords}:
            found.append((node.lineno, node))
    return found


def on_the_default_device(source: str) -> list[tuple[int, str]]:
    return [
        (line, call.func.attr)
        for line, call in calls_without("device", source)
        if isinstance(call.func, ast.Attribute) and call.func.attr in MAKERS and ast.unparse(call.func.value) == "torch"
    ]


def in_the_encoding_of_the_locale(source: str) -> list[tuple[int, str]]:
    """Files of text that are opened, read or written so."""
    found = []
    for line, call in calls_without("encoding", source):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        modes = [*call.args[0 if isinstance(call.func, ast.Attribute) else 1 :][:1]]
        modes += [each.value for each in call.keywords if each.arg == "mode"]
        # What opens a member by its name is an archive, in binary.
        in_text = not modes or (isinstance(modes[0], ast.Constant) and "b" not in str(modes[0].value))
        if name in ("read_text", "write_text") or (name == "open" and in_text):
            found.append((line, name))
    return found


@pytest.mark.parametrize("path", FILES, ids=str)
def test_tensors_are_made_on_a_named_device(path: Path) -> None:
    """On the default device of the process they would not meet those of the caller."""
    found = on_the_default_device((ROOT / path).read_text(encoding="utf-8"))
    assert {(path.as_posix(), name) for _, name in found} <= ON_THE_DEFAULT_DEVICE, found


REPOSITORY = ROOT.parent
SOURCES = sorted(
    path
    for folder in ("dark_kernels", "dark_kernels_cli", "benchmarks", "examples")
    for path in (REPOSITORY / folder).rglob("*.py")
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_files_of_text_name_their_encoding(path: Path) -> None:
    """UTF-8, whatever the locale says."""
    assert not in_the_encoding_of_the_locale(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("find", "source"),
    [
        (on_the_default_device, "torch.tensor([1], dtype=torch.float64)"),
        (on_the_default_device, "f(torch.arange(3))"),
        (in_the_encoding_of_the_locale, "path.read_text()"),
        (in_the_encoding_of_the_locale, "Path(name).write_text('a')"),
        (in_the_encoding_of_the_locale, "open('a')"),
        (in_the_encoding_of_the_locale, "path.open('w')"),
        (in_the_encoding_of_the_locale, "open('a', mode='w')"),
    ],
)  # fmt: skip
def test_what_depends_on_the_process_is_found(find: Callable[[str], list[object]], source: str) -> None:
    assert len(find(source)) == 1
    for harmless in ("torch.tensor([1], device='cpu')", "maps.new_zeros(3)", "open('a', 'rb')", "path.open('wb')",
                     "path.read_text(encoding='utf-8')", "open('a', encoding='utf-8')"):  # fmt: skip
        assert not find(harmless)


COMMAND = REPOSITORY / "dark_kernels_cli"
# What runs before a command is known, or its help is shown.
AT_ONCE = ("__init__.py", "app.py", "completion.py", "errors.py", "options.py")


@pytest.mark.parametrize("name", AT_ONCE)
def test_the_command_starts_without_what_takes_time(name: str) -> None:
    for node in ast.walk(ast.parse((COMMAND / name).read_text(encoding="utf-8"))):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            modules = [f".{name}" for name in ([node.module] if node.module else [each.name for each in node.names])]
            modules = modules if node.level else [node.module or ""]
        for module in modules:
            top = module.split(".")[0]
            fast = f"{module.removeprefix('.')}.py" in AT_ONCE if not top else top in {"typer", "rich"}
            assert fast or top in sys.stdlib_module_names, f"{name} imports {module}"


@pytest.mark.parametrize("path", sorted(COMMAND.glob("*.py")), ids=lambda path: path.name)
def test_the_command_stands_on_what_users_call(path: Path) -> None:
    """And makes tensors on a named device, as the package does."""
    source = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dark_kernels" and not node.level:
            assert not any(part.startswith("_") for part in (node.module or "").split(".")), node.module
            assert node.module.count(".") <= 2  # type: ignore[union-attr]
    assert on_the_default_device(source) == []
    assert products(source) == []
