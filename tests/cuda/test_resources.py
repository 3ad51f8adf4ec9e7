"""Registers, shared memory and occupancy of every GPU kernel are those of the table that is checked in, and allowed."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import resources
from compiled import find_nvcc
from emulator import build

LACKING = build.missing() or (
    "" if find_nvcc() else "nvcc was not found; install the CUDA toolkit to compile csrc/cuda"
)
needs_cuda = pytest.mark.skipif(bool(LACKING), reason=LACKING)
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
OPERATORS = [pytest.param("cuda", operator, marks=needs_cuda) for operator in resources.operators("cuda")] + [
    pytest.param("triton", operator, marks=needs_triton) for operator in resources.operators("triton")
]
REMAKE = "remake the table: scripts/gpu_resources"


def in_order(rows):
    return sorted(json.dumps(row) for row in rows)


@pytest.mark.parametrize(("floor", "operator"), OPERATORS)
def test_kernels_keep_to_the_rules_and_to_the_table(floor, operator, request):
    if floor == "cuda":
        rows = resources.cuda_rows(operator, find_nvcc())
    else:
        rows = resources.triton_rows(request.getfixturevalue("compiled_ahead")(operator))
    assert resources.violations(rows) == []
    table = json.loads(resources.TABLE.read_text(encoding="utf-8"))
    compiler = "nvcc" if floor == "cuda" else "triton"
    if table["compilers"][compiler] != resources.compilers()[compiler]:
        pytest.skip(f"the table is of {compiler} {table['compilers'][compiler]}")
    expected = [row for row in table["rows"] if (row["floor"], row["operator"]) == (floor, operator)]
    assert in_order(rows) == in_order(expected), REMAKE


def test_the_table_for_people_is_made_of_the_other():
    table = json.loads(resources.TABLE.read_text(encoding="utf-8"))
    assert resources.violations(table["rows"]) == []
    assert resources.text(table["rows"], table["compilers"]) == resources.DOCUMENT.read_text(encoding="utf-8"), REMAKE
    listed = {(row["floor"], row["operator"]) for row in table["rows"]}
    assert listed == {(floor, operator) for floor in ("cuda", "triton") for operator in resources.operators(floor)}


@pytest.mark.skipif(bool(build.missing()), reason=build.missing() or "-")
def test_a_bank_is_told_as_each_architecture_launches_it():
    facts = build.load("depthwise_bank").facts
    told = {a: {fact[0]: fact[1:4] for fact in facts if fact[4] == a} for a in resources.ARCHITECTURES}
    assert all(list(launches) == list(told[75]) for launches in told.values())
    assert len(told[75]) == 8
    for architecture, launches in told.items():
        limits = resources.MULTIPROCESSORS[architecture]
        for threads, shared, floor in launches.values():
            assert shared <= limits.block_shared
            blocks = min(2, limits.shared // (shared + limits.reserved))
            assert floor == blocks * threads // 32
    # Larger tiles where there is more shared memory.
    assert told[75]["bank_backward<float, 1>"][:2] == (256, 62976)
    assert told[80]["bank_backward<float, 1>"][:2] == (512, 161280)
    assert told[90]["bank_backward<float, 1>"][:2] == told[100]["bank_backward<float, 1>"][:2] == (256, 112128)


@pytest.mark.parametrize(
    ("architecture", "registers", "shared", "threads", "warps"),
    [
        (75, 32, 0, 256, 32),  # all that there are
        (75, 64, 0, 256, 32),
        (75, 72, 0, 256, 24),
        (75, 32, 33 << 10, 256, 8),  # shared memory lets one block in
        (75, 32, 0, 32, 16),  # 16 blocks
        (80, 32, 0, 256, 64),
        (80, 64, 0, 1024, 32),
        (80, 65, 0, 1024, 0),  # too many registers for one block
        (80, 128, 0, 128, 16),
        (80, 255, 0, 128, 8),
        (80, 32, 54 << 10, 128, 8),  # 54 + 1 KiB, twice in 164
        (80, 32, 53 << 10, 128, 12),
        (80, 32, 163 << 10, 128, 4),
        (80, 32, 164 << 10, 128, 0),
        (90, 32, 227 << 10, 128, 4),
        (90, 40, 0, 320, 40),
        (100, 96, 0, 48, 20),  # a block of 48 has two warps
    ],
)
def test_resident_warps(architecture, registers, shared, threads, warps):
    """As NVIDIA's occupancy calculator gives them."""
    assert resources.resident_warps(architecture, registers, shared, threads) == warps


def test_violations_are_told():
    row = {"floor": "cuda", "kernel": "k<float>", "launch": "k", "architecture": 80, "warps_floor": 16, "warps": 16}
    fine = {**row, "spills": 0, "local": 0}
    assert resources.violations([fine]) == []
    assert "8 bytes of spills" in resources.violations([{**fine, "spills": 8}])[0]
    assert "4 of local memory" in resources.violations([{**fine, "local": 4}])[0]
    assert "12 warps a multiprocessor, the floor is 16" in resources.violations([{**fine, "warps": 12}])[0]
