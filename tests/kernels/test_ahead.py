"""Every kernel compiles for every architecture, without a GPU: proof 1 of the design, second half."""

import ast
import importlib
from pathlib import Path

import pytest

from partnas.ops.backend import AVAILABLE

OPERATORS = [operator for operator, floors in AVAILABLE.items() if "triton" in floors]


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_kernel_compiles_for_every_architecture(compiled_ahead, operator):
    found = compiled_ahead(operator)
    assert {facts["architecture"] for facts in found} == {75, 80, 90, 100}
    # channel_shuffle moves integers of the size of its elements.
    listed = importlib.import_module(f"partnas.kernels.{operator}").AHEAD
    typed = any("*T" in str(ahead.signature) for ahead in listed)
    assert {facts["dtype"] for facts in found} >= ({"fp32", "bf16", "fp16"} if typed else {"fp32"})
    failures = [facts for facts in found if facts["error"]]
    assert not failures, "\n".join(map(str, failures))
    assert all(Path(facts["cubin"]).stat().st_size for facts in found)


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_kernel_that_is_launched_is_listed(operator):
    module = importlib.import_module(f"partnas.kernels.{operator}")
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "launch"]
    launched = {name.id for call in calls for name in ast.walk(call.args[0]) if isinstance(name, ast.Name)}
    assert launched
    assert {getattr(module, name) for name in launched} <= {ahead.kernel for ahead in module.AHEAD}
