import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import ahead
import pytest
import torch
from filelock import FileLock
from jobs import GENOTYPE, TINY, environment

from partnas.ops.backend import AVAILABLE


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """``once("name", make)``: a folder that ``make(folder)`` has filled, in one of the test processes for them all."""
    home = tmp_path_factory.getbasetemp()
    home = home.parent if "PYTEST_XDIST_WORKER" in os.environ else home

    def folder_of(name, make):
        folder = home / name
        with FileLock(home / f"{name}.lock"):
            if not (folder / "made").exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                (folder / "made").touch()
        return folder

    return folder_of


@pytest.fixture(scope="session")
def cli():
    """Runs the command line in a process of its own: ``cli("flops", "resnet50", code=0)``; returns the process."""

    def run(*arguments, code=0, cwd=None):
        process = subprocess.run(
            [sys.executable, "-m", "partnas", *map(str, arguments)],
            capture_output=True,
            text=True,
            env=environment(),
            cwd=cwd,
            timeout=300,
        )
        assert process.returncode == code, f"exit {process.returncode}\n{process.stdout}\n{process.stderr}"
        return process

    return run


@pytest.fixture
def one_thread():
    """PyTorch computes on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def genotype_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("genotype") / "genotype.json"
    path.write_text(json.dumps(GENOTYPE))
    return path


@pytest.fixture(scope="session")
def trained(cli, genotype_file, once) -> Path:
    """The folder of a finished tiny training run."""

    def make(folder):
        cli("train", "--out", folder / "run", "--genotype", genotype_file, *TINY)

    return once("train", make) / "run"


@pytest.fixture(scope="session")
def searched(cli, once) -> Path:
    """The folder of a finished tiny search."""

    def make(folder):
        cli("search", "--out", folder / "run", *TINY, "--set", "alpha_epoch=1")

    return once("search", make) / "run"


@pytest.fixture(scope="session")
def compiled_ahead(once):
    """``compiled_ahead(operator)``: what kernels/ahead.py tells of its Triton kernels."""

    def make(folder):
        found = ahead.run([operator for operator, floors in AVAILABLE.items() if "triton" in floors])
        (folder / "found.json").write_text(json.dumps(found))

    def of(operator):
        found = json.loads((once("ahead", make) / "found.json").read_text())
        return [facts for facts in found if facts["operator"] == operator]

    return of
