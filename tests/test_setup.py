"""What setup.py builds for GPUs, and what it says where it cannot."""

import importlib.util
from pathlib import Path

import pytest
import setuptools
import torch

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture
def build(monkeypatch):
    """setup.py as a module, with nothing installed by it."""
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    for name in ("PARTNAS_CUDA", "TORCH_CUDA_ARCH_LIST", "CUDA_HOME", "CUDA_PATH", "CXX"):
        monkeypatch.delenv(name, raising=False)
    spec = importlib.util.spec_from_file_location("partnas_setup", REPOSITORY / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def nvcc(tmp_path, monkeypatch):
    """An nvcc of CUDA 13.0, in CUDA_HOME, that knows three architectures and compiles nothing."""
    path = tmp_path / "cuda" / "bin" / "nvcc"
    path.parent.mkdir(parents=True)
    path.write_text(
        "#!/bin/sh\n"
        'case "$1" in\n'
        "--version) echo 'Cuda compilation tools, release 13.0, V13.0.88' ;;\n"
        "--list-gpu-arch) echo compute_75; echo compute_80; echo compute_90 ;;\n"
        "*) echo 'kernel.cu(3): error: no' >&2; exit 1 ;;\n"
        "esac\n"
    )
    path.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(path.parent.parent))
    return str(path)


def test_a_torch_with_cuda_is_built_for_and_one_without_only_on_request(build, nvcc, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(build.NotAsked, match="has no CUDA"):
        build.cuda_compiler()
    monkeypatch.setenv("PARTNAS_CUDA", "1")
    assert build.cuda_compiler() == nvcc
    monkeypatch.delenv("PARTNAS_CUDA")
    monkeypatch.setattr(torch.version, "cuda", "13.1")
    assert build.cuda_compiler() == nvcc
    monkeypatch.setenv("PARTNAS_CUDA", "0")
    with pytest.raises(build.NotAsked, match="PARTNAS_CUDA=0"):
        build.cuda_compiler()
    monkeypatch.setenv("PARTNAS_CUDA", "yes")
    with pytest.raises(build.BuildFailure, match="PARTNAS_CUDA is 'yes'"):
        build.cuda_compiler()


def test_another_major_version_of_cuda_is_one_line(build, nvcc, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    with pytest.raises(build.BuildFailure, match=r"is of CUDA 13\.0, but torch .* of CUDA 12\.8") as caught:
        build.cuda_compiler()
    assert "\n" not in str(caught.value)


def test_without_nvcc_only_who_asked_is_told(build, monkeypatch):
    monkeypatch.setattr(build.shutil, "which", lambda _: None)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(build.NotAsked, match="nvcc was not found"):
        build.cuda_compiler()
    monkeypatch.setenv("PARTNAS_CUDA", "1")
    with pytest.raises(build.BuildFailure, match="nvcc was not found") as caught:
        build.cuda_compiler()
    assert not isinstance(caught.value, build.NotAsked)


def test_architectures(build, nvcc, monkeypatch):
    assert build.cuda_architectures(nvcc) == ["7.5", "8.0", "9.0+PTX"]
    for text in ("8.6;9.0+PTX", "8.6 9.0+PTX", " 8.6, 9.0+PTX;"):
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", text)
        assert build.cuda_architectures(nvcc) == ["8.6", "9.0+PTX"]
    assert build.generate_code(["8.6", "9.0+PTX"]) == [
        *("-gencode", "arch=compute_86,code=sm_86"),
        *("-gencode", "arch=compute_90,code=sm_90"),
        *("-gencode", "arch=compute_90,code=compute_90"),
    ]
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "Hopper")
    with pytest.raises(build.BuildFailure, match="'Hopper'"):
        build.cuda_architectures(nvcc)


def test_a_file_that_is_no_nvcc_is_one_line(build, nvcc, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    Path(nvcc).write_bytes(b"\xff\x00\x01")
    for ask in (build.cuda_compiler, lambda: build.cuda_architectures(nvcc)):
        with pytest.raises(build.BuildFailure, match="nvcc does not run") as caught:
            ask()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("a.cu(1): warning: w\na.cu(3): error: no\nlast", "a.cu(3): error: no"),
        ("nvcc fatal   : Unsupported gpu architecture 'compute_70'\nlast", "nvcc fatal   : Unsupported gpu"),
        ("first\n  killed\n\n", "killed"),
        ("", "no message"),
    ],
)
def test_a_failure_says_what_the_compiler_said(build, tmp_path, told, said):
    (tmp_path / "told").write_text(told)
    with pytest.raises(build.BuildFailure) as caught:
        build.run(["sh", "-c", f"cat {tmp_path}/told >&2; exit 1"])
    assert str(caught.value).startswith(f"sh failed: {said}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("cuda", "note"), [("13.0", "no"), ("12.8", "of the same major version"), (None, "no CUDA")])
def test_the_installation_goes_on_and_a_note_says_why_there_is_no_library(
    build, nvcc, monkeypatch, tmp_path, capsys, cuda, note
):
    monkeypatch.setattr(torch.version, "cuda", cuda)
    told = []
    monkeypatch.setattr(build, "tell", told.append)
    distribution = setuptools.Distribution({"name": "partnas", "packages": ["partnas"]})
    command = build.BuildNative(distribution)
    command.build_lib, command.editable_mode = str(tmp_path / "lib"), False
    extension = setuptools.Extension("partnas._native_cuda", [], py_limited_api=True)
    distribution.ext_modules = [extension]
    command.finalize_options()
    command.build_extension(extension)
    folder = tmp_path / "lib" / "partnas"
    assert [path.name for path in folder.iterdir()] == ["_native_cuda_note.txt"]
    line = (folder / "_native_cuda_note.txt").read_text()
    assert line.count("\n") == 1
    assert line.startswith("CUDA operators were not built: ")
    assert note in line
    assert told == ([f"partnas: {line.strip()}"] if cuda else [])
