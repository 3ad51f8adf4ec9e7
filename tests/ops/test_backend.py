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
from partnas.ops import backend, namespaces, native, use_backend
from partnas.ops.backend import AVAILABLE, describe, resolve
from partnas.ops.depthwise_bank import depthwise_bank
from partnas.ops.norm_sum import norm_stats, norm_sum
from partnas.ops.pointwise import pointwise

CPU = torch.zeros(1)
needs_native = pytest.mark.skipif(not native.loaded(), reason=native.note())


@pytest.fixture(autouse=True)
def no_choice_from_outside(monkeypatch):
    monkeypatch.delenv("PARTNAS_BACKEND", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(backend, "_told", set())


@needs_native
@pytest.mark.parametrize("operator", AVAILABLE)
def test_the_automatic_choice_on_a_cpu(operator):
    assert resolve(operator, CPU) == ("native" if "cpu" in AVAILABLE[operator] else "reference")


class OnGpu:
    """Stands for a CUDA tensor: the resolution asks for the device and for nothing else."""

    device = torch.device("cuda", 0)


@pytest.fixture
def machine(monkeypatch):
    """What is there, as if: ``machine(available=..., native=..., cuda=..., triton=..., fits=...)``."""

    def stands_for(available=("cpu", "cuda", "triton"), native_=True, cuda=True, triton=True, fits=True):
        monkeypatch.setitem(AVAILABLE, "soft_argmax_3d", available)
        monkeypatch.setattr(native, "_LOADED", native_)
        monkeypatch.setattr(native, "_NOTE", "" if native_ else "native operators were not built")
        monkeypatch.setattr(native, "_CUDA_LOADED", native_ and cuda)
        monkeypatch.setattr(native, "_CUDA_NOTE", "" if cuda else "CUDA operators were not built")
        monkeypatch.setattr(native, "cuda_architectures", lambda: "8.0;9.0" if native_ and cuda else "")
        monkeypatch.setattr(native, "_architecture_note", lambda index: "" if fits else f"GPU {index} is of 12.0")
        monkeypatch.setattr(namespaces, "triton_note", lambda: "" if triton else "triton is not installed")

    return stands_for


@pytest.mark.parametrize(
    ("there", "tensor", "chosen"),
    [
        ({}, CPU, "native"),
        ({"native_": False}, CPU, "reference"),
        ({"available": ()}, CPU, "reference"),
        ({"available": ("cuda", "triton")}, CPU, "reference"),
        ({}, OnGpu, "native"),
        ({"cuda": False}, OnGpu, "triton"),
        ({"native_": False}, OnGpu, "triton"),
        ({"available": ("cpu", "triton")}, OnGpu, "triton"),
        ({"available": ("cpu",)}, OnGpu, "reference"),
        ({}, torch.zeros(1, device="meta"), "reference"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_the_choice_by_device_and_by_what_is_there(machine, there, tensor, chosen):
    machine(**there)
    assert resolve("soft_argmax_3d", tensor) == chosen


@pytest.mark.parametrize(
    ("there", "chosen", "told"),
    [
        ({"fits": False}, "triton", "GPU 0 is of 12.0; triton operators serve"),
        ({"fits": False, "triton": False}, "reference", "GPU 0 is of 12.0; triton is not installed; reference"),
        ({"cuda": False, "triton": False}, "reference", "CUDA operators were not built; triton is not installed;"),
        ({"available": ("triton",), "triton": False}, "reference", "partnas on cuda:0: triton is not installed;"),
    ],
)
def test_what_is_missing_on_a_gpu_is_said_once(machine, there, chosen, told):
    machine(**there)
    with pytest.warns(RuntimeWarning, match=re.escape(told)) as caught:
        assert [resolve("soft_argmax_3d", OnGpu) for _ in range(3)] == 3 * [chosen]
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("there", "asked", "told"),
    [
        ({"fits": False}, "native", "'native' is not there for cuda tensors: GPU 0 is of 12.0"),
        ({"cuda": False}, "native", "'native' is not there for cuda tensors: CUDA operators were not built"),
        ({"triton": False}, "triton", "'triton' is not there for cuda tensors: triton is not installed"),
    ],
)
def test_what_was_asked_for_on_a_gpu_and_is_missing_is_an_error(machine, there, asked, told):
    machine(**there)
    with use_backend(asked), pytest.raises(PartnasError, match=re.escape(told)):
        resolve("soft_argmax_3d", OnGpu)


@pytest.mark.parametrize(
    ("there", "asked", "chosen"),
    [
        ({}, "triton,reference", "triton"),
        ({"available": ("cpu",)}, "triton,reference", "reference"),
        ({"triton": False}, "triton, native", "native"),
        ({"fits": False}, "native,reference", "reference"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_of_several_backends_the_first_that_is_there_serves(machine, monkeypatch, there, asked, chosen):
    machine(**there)
    with use_backend(asked):
        assert resolve("soft_argmax_3d", OnGpu) == chosen
    monkeypatch.setenv("PARTNAS_BACKEND", asked)
    assert resolve("soft_argmax_3d", OnGpu) == chosen


def test_of_several_backends_none_may_be_there(machine):
    machine(cuda=False, triton=False)
    told = "'native' or 'triton' are not there for cuda tensors: CUDA operators were not built; triton is not installed"
    with use_backend("native,triton"), pytest.raises(PartnasError, match=re.escape(told)):
        resolve("soft_argmax_3d", OnGpu)


def test_triton_runs_on_a_cpu_in_its_interpreter_and_only_where_it_is_asked_for(machine, monkeypatch):
    machine()
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert resolve("soft_argmax_3d", CPU) == "native"
    with use_backend("triton"):
        assert resolve("soft_argmax_3d", CPU) == "triton"


@pytest.mark.parametrize(
    ("built", "serves", "does_not"),
    [
        ("7.5;8.0;9.0;10.0+PTX", [(7, 5), (8, 0), (8, 9), (9, 0), (10, 0), (10, 3), (12, 0)], [(7, 0)]),
        ("75;80;90;100", [(7, 5), (8, 6), (9, 0), (10, 3)], [(7, 0), (12, 0)]),
        ("8.6", [(8, 6), (8, 9)], [(8, 0), (9, 0), (7, 5)]),
        ("9.0a", [(9, 0)], [(8, 0), (10, 0)]),
        ("8.0+PTX", [(8, 0), (9, 0), (12, 1)], [(7, 5)]),
    ],
)
def test_which_gpus_an_architecture_serves(built, serves, does_not):
    assert all(native.serves(built, *capability) for capability in serves)
    assert not any(native.serves(built, *capability) for capability in does_not)


META = torch.zeros(1, 4, 3, 3, device="meta")
MAP, ONE = torch.zeros(1, 4, 3, 3), torch.zeros(4)


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize(
    ("operator", "call"),
    [
        ("pointwise", lambda: pointwise([MAP, META], torch.zeros(2, 4, 4))),
        ("pointwise", lambda: pointwise([MAP], torch.zeros(1, 4, 4, device="meta"))),
        ("pointwise", lambda: pointwise([MAP], torch.zeros(1, 4, 4), bias=torch.zeros(1, 4, device="meta"))),
        ("pointwise", lambda: pointwise([MAP], torch.zeros(1, 4, 4), add=[META])),
        ("depthwise_bank", lambda: depthwise_bank(MAP, [torch.zeros(4, 3, 3, device="meta")], dilations=[1])),
        ("depthwise_bank", lambda: depthwise_bank(MAP, [torch.zeros(4, 3, 3)], dilations=[1], scale=ONE.to("meta"), shift=ONE)),
        ("norm_sum", lambda: norm_stats([MAP, META])),
        ("norm_sum", lambda: norm_sum([MAP], torch.zeros(1, 2, 4, device="meta"), torch.ones(1))),
        ("norm_sum", lambda: norm_sum([MAP], torch.zeros(1, 2, 4), torch.ones(1), [META], torch.ones(1))),
    ],
)  # fmt: skip
def test_tensors_on_several_devices_are_refused_in_one_line(operator, call, recorded):
    with torch.set_grad_enabled(recorded), pytest.raises(PartnasError) as caught:
        call()
    assert (
        str(caught.value) == f"{operator}: tensors are on cpu and on meta; move them to one device"
        or str(caught.value) == f"{operator}: tensors are on meta and on cpu; move them to one device"
    )


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
    with pytest.raises(PartnasError, match="no backend is called 'auto'"), use_backend("native,auto"):
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
@pytest.mark.parametrize(
    ("before", "told"),
    [
        ("", "CUDA operators do not serve: torch"),
        ("torch.version.cuda = '13.0'; ", "CUDA operators do not load: "),
    ],
)
def test_a_broken_cuda_library_leaves_the_others_alone(tmp_path, before, told):
    package = Path(partnas.__file__).parent
    shutil.copytree(package, tmp_path / "partnas", ignore=shutil.ignore_patterns("sample", "__pycache__"))
    (tmp_path / "partnas" / "_native_cuda.abi3.so").write_bytes(b"no library")
    code = (
        f"import torch; {before}import partnas; from partnas.ops.backend import describe;"
        "partnas.ops.channel_shuffle(torch.randn(2, 6, 4, 5), 3);"
        "print(set(describe()['operators'].values()), describe()['cuda'])"
    )
    process = elsewhere(tmp_path, code)
    assert process.stdout.startswith("{'native'} " + told), process.stderr


def test_without_triton_all_is_as_it_was(tmp_path):
    code = (
        "import sys; sys.modules['triton'] = None; import torch, partnas; from partnas.ops.backend import describe;"
        "partnas.ops.channel_shuffle(torch.randn(2, 6, 4, 5), 3); print(describe()['triton'])"
    )
    assert elsewhere(Path(partnas.__file__).parent.parent, code).stdout.startswith("triton is not installed: run")


def test_triton_is_imported_only_when_it_is_asked_for():
    code = (
        "import sys, torch, partnas; from partnas.ops.backend import describe; describe();"
        "partnas.ops.channel_shuffle(torch.randn(2, 6, 4, 5), 3); print('triton' in sys.modules)"
    )
    assert elsewhere(Path(partnas.__file__).parent.parent, code).stdout == "False\n"


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
