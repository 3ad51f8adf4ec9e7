import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from native_cpu import INSTRUCTION_SETS, instruction_set

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


class OnGpu:
    """Stands for a CUDA tensor: the resolution asks for the device and for nothing else."""

    device = torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("available", "loaded", "tensor", "chosen"),
    [
        (("cpu",), True, CPU, "native"),
        (("cpu",), False, CPU, "reference"),
        ((), True, CPU, "reference"),
        (("cuda", "triton"), True, CPU, "reference"),
        (("cpu", "cuda", "triton"), True, OnGpu, "native"),
        (("cpu", "cuda", "triton"), False, OnGpu, "triton"),
        (("cpu", "triton"), True, OnGpu, "triton"),
        (("cpu",), True, OnGpu, "reference"),
        (("cpu", "cuda", "triton"), True, torch.zeros(1, device="meta"), "reference"),
    ],
)
def test_the_choice_by_device_and_by_what_is_there(monkeypatch, available, loaded, tensor, chosen):
    monkeypatch.setitem(AVAILABLE, "soft_argmax_3d", available)
    monkeypatch.setattr(native, "_LOADED", loaded)
    monkeypatch.setattr(native, "_NOTE", "" if loaded else "native operators were not built")
    assert resolve("soft_argmax_3d", tensor) == chosen


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
    with pytest.raises(PartnasError, match=re.escape(note)):
        native.set_cpu_capability("baseline")
    facts = describe()
    assert facts["native"] is False
    assert facts["note"] == note
    assert facts["cpu_capability"] is None
    assert set(facts["operators"].values()) == {"reference"}


def elsewhere(folder, code, **environment):
    """Runs Python code in a process of its own that imports the package from ``folder``."""
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), **environment},
    )


@pytest.mark.parametrize(
    ("library", "note", "told"),
    [
        (
            None,
            "native operators were not built: no C++ compiler\n",
            "native operators were not built: no C++ compiler",
        ),
        (None, None, "native operators were not built: run `pip install"),
        (b"no library", None, "native operators do not load: "),
    ],
)
def test_a_package_without_a_working_library_works(tmp_path, library, note, told):
    package = Path(partnas.__file__).parent
    ignored = shutil.ignore_patterns("_native*", "sample", "__pycache__")
    shutil.copytree(package, tmp_path / "partnas", ignore=ignored)
    if library is not None:
        (tmp_path / "partnas" / "_native.abi3.so").write_bytes(library)
    if note is not None:
        (tmp_path / "partnas" / native.NOTE_FILE).write_text(note)
    code = (
        "import torch, partnas; from partnas.ops.backend import describe;"
        "x = torch.randn(2, 6, 4, 5, requires_grad=True);"
        "partnas.ops.soft_argmax_3d(x, parts=2).sum().backward();"
        "partnas.ops.channel_shuffle(x, 3);"
        "print(set(describe()['operators'].values()), describe()['note'])"
    )
    process = elsewhere(tmp_path, code)
    assert process.stdout.startswith("{'reference'} " + told), process.stderr
    assert process.stdout.count("\n") == 1


@needs_native
def test_the_environment_chooses_the_instruction_set():
    root = Path(partnas.__file__).parent.parent
    code = "from partnas.ops import native; print(native.cpu_capability())"
    assert elsewhere(root, code, PARTNAS_CPU_CAPABILITY="baseline").stdout == "baseline\n"
    last = elsewhere(root, code, PARTNAS_CPU_CAPABILITY="sse9").stderr.splitlines()[-1]
    assert last.endswith("PartnasError: PARTNAS_CPU_CAPABILITY: 'sse9' is none of 'avx512', 'avx2', 'baseline'")


@needs_native
def test_the_instruction_set_can_be_changed():
    before = native.cpu_capability()
    for name in INSTRUCTION_SETS:
        with instruction_set(name):
            assert native.cpu_capability() == name
    with pytest.raises(PartnasError, match=r"^set_cpu_capability: 'sse9' is none of 'avx512'"):
        native.set_cpu_capability("sse9")
    assert native.cpu_capability() == before


@needs_native
def test_the_chosen_backend_is_the_one_that_runs():
    x = torch.zeros(1, 2, 3, 4)
    for name, expected in ((None, True), ("native", True), ("reference", False)):
        with use_backend(name), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            partnas.ops.channel_shuffle(x, 2)
            partnas.ops.soft_argmax_3d(x, 1)
        events = {event.name for event in profile.events()}
        assert ({"partnas::channel_shuffle", "partnas::soft_argmax_3d"} <= events) == expected


@needs_native
def test_describe_names_the_instruction_set():
    facts = describe()
    assert facts["cpu_capability"] in ("avx512", "avx2", "baseline")
    assert facts["operators"].keys() == AVAILABLE.keys()
    assert set(facts["operators"].values()) <= set(backend.BACKENDS)
