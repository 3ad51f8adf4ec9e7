import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from jobs import GENOTYPE, TINY, environment


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
def trained(cli, genotype_file, tmp_path_factory) -> Path:
    """The folder of a finished tiny training run."""
    out = tmp_path_factory.mktemp("runs") / "train"
    cli("train", "--out", out, "--genotype", genotype_file, *TINY)
    return out


@pytest.fixture(scope="session")
def searched(cli, tmp_path_factory) -> Path:
    """The folder of a finished tiny search."""
    out = tmp_path_factory.mktemp("runs") / "search"
    cli("search", "--out", out, *TINY, "--set", "alpha_epoch=1")
    return out
