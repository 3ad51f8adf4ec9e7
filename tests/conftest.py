import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
TINY_SETTINGS = {
    "batch_size": 4,
    "epochs": 2,
    "steps_per_epoch": 2,
    "network": {"channels": 4, "input_size": 32, "depth": 4, "fusion_channels": 16},
    "data": {"monitor_frames": 4, "cache": False},
}
"""A job that is over in seconds: two epochs of two steps on a network of the usual shape but few channels."""

TINY_FLAGS = ["--preset", "mini", "--threads", "1", "--quiet"]


def as_flags(settings: dict, prefix: str = "") -> list[str]:
    """Nested settings as ``--set a.b=c`` flags."""
    flags = []
    for name, value in settings.items():
        if isinstance(value, dict):
            flags += as_flags(value, f"{prefix}{name}.")
        else:
            flags += ["--set", f"{prefix}{name}={json.dumps(value)}"]
    return flags


TINY = [*TINY_FLAGS, *as_flags(TINY_SETTINGS)]

GENOTYPE = {
    "format": "partnas.genotype",
    "version": 1,
    "normal": [
        [["sep_conv_3x3", 0], ["skip_connect", 1]],
        [["dil_conv_3x3", 0], ["max_pool_3x3", 2]],
        [["sep_conv_5x5", 1], ["avg_pool_3x3", 3]],
        [["skip_connect", 0], ["dil_conv_5x5", 4]],
    ],
    "reduction": [
        [["max_pool_3x3", 0], ["sep_conv_3x3", 1]],
        [["skip_connect", 0], ["dil_conv_3x3", 2]],
        [["avg_pool_3x3", 1], ["sep_conv_5x5", 2]],
        [["skip_connect", 1], ["dil_conv_5x5", 3]],
    ],
    "fusion": [
        [["sep_conv_3x3", 0], ["skip_connect", 1]],
        [["dil_conv_3x3", 1], ["max_pool_3x3", 2]],
    ],
}


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}


@pytest.fixture(scope="session")
def cli():
    """Runs the command line in a process of its own: ``cli("flops", "resnet50", code=0)``; returns the process."""

    def run(*arguments, code=0, cwd=None):
        process = subprocess.run(
            [sys.executable, "-m", "partnas.cli", *map(str, arguments)],
            capture_output=True,
            text=True,
            env=environment(),
            cwd=cwd,
            timeout=300,
        )
        assert process.returncode == code, f"exit {process.returncode}\n{process.stdout}\n{process.stderr}"
        return process

    return run


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
