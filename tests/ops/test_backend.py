import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import partnas
from partnas.errors import PartnasError
from partnas.ops import backend, native, use_backend
from partnas.ops.backend import AVAILABLE, describe, resolve

CPU = torch.zeros(1)
needs_native = pytest.mark.skipif(not native.loaded(), reason=native.note())


@pytest.fixture(autouse=True)
def no_choice_from_outside(monkeypatch):
    monkeypatch.delenv("PARTNAS_BACKEND", raising=False)


@needs_native
@pytest.mark.parametrize("operator", AVAILABLE)
def test_the_automatic_choice_on_a_cpu(operator):
    assert resolve(operator, CPU) == ("native" if "cpu" in AVAILABLE[operator] else "reference")


@pytest.mark.parametrize("operator", AVAILABLE)
def test_a_gpu_falls_back_to_the_reference_while_nothing_is_written_for_it(operator):
    tensor = torch.zeros(1, device="meta")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(tensor), "device", torch.device("cuda"), raising=False)
        expected = next(
            (name for name, floor in (("native", "cuda"), ("triton", "triton")) if floor in AVAILABLE[operator]),
            "reference",
        )
        assert resolve(operator, tensor) == expected


def test_the_reference_can_always_be_asked_for(monkeypatch):
    with use_backend("reference"):
        assert resolve("soft_argmax_3d", CPU) == "reference"
    monkeypatch.setenv("PARTNAS_BACKEND", "reference")
    assert resolve("soft_argmax_3d", CPU) == "reference"


@needs_native
def test_blocks_nest_and_survive_exceptions(monkeypatch):
    monkeypatch.setenv("PARTNAS_BACKEND", "reference")
    with use_backend("native"):
        assert resolve("soft_argmax_3d", CPU) == "native"
        with pytest.raises(RuntimeError, match="reference"), use_backend("reference"):
            raise RuntimeError(resolve("soft_argmax_3d", CPU))
        assert resolve("soft_argmax_3d", CPU) == "native"
        with use_backend(None):
            assert resolve("soft_argmax_3d", CPU) == "native"
    assert resolve("soft_argmax_3d", CPU) == "reference"


def test_unknown_names(monkeypatch):
    with pytest.raises(PartnasError, match="use_backend: no backend is called 'fast'"), use_backend("fast"):
        pass
    monkeypatch.setenv("PARTNAS_BACKEND", "fast")
    with pytest.raises(PartnasError, match="PARTNAS_BACKEND: no backend is called 'fast'"):
        resolve("soft_argmax_3d", CPU)


def test_what_is_not_there_is_said(monkeypatch):
    with use_backend("triton"), pytest.raises(PartnasError, match="triton kernels run on CUDA tensors"):
        resolve("soft_argmax_3d", CPU)
    monkeypatch.setitem(AVAILABLE, "soft_argmax_3d", ())
    with use_backend("native"), pytest.raises(PartnasError, match="it is not written; use 'reference'"):
        resolve("soft_argmax_3d", CPU)


def test_without_the_library_the_reference_serves(monkeypatch):
    note = "native operators were not built: no C++ compiler"
    monkeypatch.setattr(native, "_NOTE", note)
    monkeypatch.setattr(native, "_LOADED", False)
    assert resolve("soft_argmax_3d", CPU) == "reference"
    with use_backend("native"), pytest.raises(PartnasError, match=re.escape(note)):
        resolve("soft_argmax_3d", CPU)
    facts = describe()
    assert facts["native"] is False
    assert facts["note"] == note
    assert facts["cpu_capability"] is None
    assert set(facts["operators"].values()) == {"reference"}


def test_a_package_without_the_library_works(tmp_path):
    package = Path(partnas.__file__).parent
    ignored = shutil.ignore_patterns("_native*", "sample", "__pycache__")
    shutil.copytree(package, tmp_path / "partnas", ignore=ignored)
    (tmp_path / "partnas" / native.NOTE_FILE).write_text("native operators were not built: no C++ compiler\n")
    code = (
        "import torch, partnas; from partnas.ops.backend import describe;"
        "x = torch.randn(2, 6, 4, 5, requires_grad=True);"
        "partnas.ops.soft_argmax_3d(x, parts=2).sum().backward();"
        "partnas.ops.channel_shuffle(x, 3);"
        "print(describe()['note'], set(describe()['operators'].values()))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert process.stdout == "native operators were not built: no C++ compiler {'reference'}\n", process.stderr


@needs_native
def test_describe_names_the_instruction_set():
    facts = describe()
    assert facts["cpu_capability"] in ("avx512", "avx2", "baseline")
    assert facts["operators"].keys() == AVAILABLE.keys()
    assert set(facts["operators"].values()) <= set(backend.BACKENDS)
