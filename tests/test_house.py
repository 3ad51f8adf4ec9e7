"""The house of the project: one name on every floor, and imports that point one way."""

import ast
from pathlib import Path

import pytest

import partnas
from partnas.ops.backend import AVAILABLE

PACKAGE = Path(partnas.__file__).parent
REPOSITORY = PACKAGE.parent
LAYERS = {
    "ops": {"ops", "errors"},
    "kernels": {"kernels", "ops", "errors", "files"},
    "space": {"errors", "skeleton"},
    "genotype": {"space", "errors"},
    "nn": {"nn", "ops", "space", "genotype", "errors", "skeleton"},
    "data": {"data", "errors", "files", "skeleton"},
    "metrics": {"metrics", "errors", "files", "skeleton"},
    "viz": {"viz", "errors", "files", "skeleton"},
}
"""What each part of the package may import of the package."""

FLOORS = {
    "cpu": ("csrc/cpu/{}.cpp", "csrc/bindings/{}.cpp", "bench/bench_{}.py"),
    "cuda": ("csrc/cuda/{}.cu", "csrc/cuda/{}.h", "csrc/bindings/cuda/{}.cpp", "tests/cuda/test_{}.py"),
    "triton": ("kernels/{}.py", "tests/kernels/test_{}.py"),
}
HELPERS = {"csrc/cpu": set(), "csrc/cuda": set(), "kernels": {"__init__", "launch", "numbers"}}
"""Files beside the operators' own that are compiled as they are."""


@pytest.mark.parametrize("operator", AVAILABLE)
def test_an_operator_has_its_file_on_every_floor_that_the_table_names(operator):
    assert (REPOSITORY / f"partnas/ops/{operator}.py").is_file()
    assert (REPOSITORY / f"tests/ops/test_{operator}.py").is_file()
    for floor, patterns in FLOORS.items():
        for pattern in patterns:
            path = REPOSITORY / pattern.format(operator)
            assert path.is_file() == (floor in AVAILABLE[operator]), path


def test_no_kernel_is_left_out_of_the_table():
    for folder, suffix in (("csrc/cpu", ".cpp"), ("csrc/cuda", ".cu"), ("kernels", ".py")):
        names = {path.stem for path in (REPOSITORY / folder).glob(f"*{suffix}")}
        assert names - HELPERS[folder] <= set(AVAILABLE), folder


def imports(path):
    """The first names below ``partnas`` that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "partnas":
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "partnas" else [node.module]
            )
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == "partnas"]
        else:
            continue
        yield from (name.split(".")[1] for name in names if "." in name)


@pytest.mark.parametrize("layer", LAYERS)
def test_arrows_point_one_way(layer):
    home = (REPOSITORY if layer == "kernels" else PACKAGE) / layer
    files = sorted(home.rglob("*.py")) if home.is_dir() else [home.with_suffix(".py")]
    assert files
    for path in files:
        assert set(imports(path)) <= LAYERS[layer], path
