"""Settings of jobs that are over in seconds, and a genotype for them."""

import json
import os
from pathlib import Path

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
