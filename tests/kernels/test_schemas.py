"""Both namespaces have the same functions: one schema, stated in csrc/schemas.cpp."""

import pytest
import torch

from partnas.ops import namespaces, native
from partnas.ops.backend import AVAILABLE

OPERATORS = [operator for operator, floors in AVAILABLE.items() if "triton" in floors]


@pytest.mark.skipif(not native.loaded(), reason=native.note())
@pytest.mark.parametrize("operator", OPERATORS)
def test_the_schemas_are_those_of_the_compiled_operators(operator):
    operators = namespaces.triton(operator)
    for name in namespaces.functions(operator):
        ours, theirs = (getattr(n, name).default._schema for n in (operators, torch.ops.partnas))
        assert str(ours).removeprefix("partnas_triton::") == str(theirs).removeprefix("partnas::")
