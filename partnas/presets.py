"""Named sets of settings for the jobs, and the search spaces that they stand for."""

from typing import Any

from partnas.space import SearchSpace

MINI = {"input_size": 64, "depth": 16, "channels": 8, "cells": 8, "reductions": 4, "fusions": 2}
EMBEDDED = {"train_stride": 1, "test_stride": 1, "cache": True}
MILD = {"occlusion_probability": 0.0, "scale": 0.15}
PAPER = {"input_size": 256, "depth": 64}
ROOTS = {
    "network": {"input_size": 256}, "epochs": 20, "batch_size": 32, "milestones": [17], "augmentation": {"scale": 0.0},
}  # fmt: skip

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "mini": {
        "search": {
            "network": MINI, "data": EMBEDDED, "epochs": 6, "steps_per_epoch": 10, "batch_size": 16,
            "milestones": [4, 5], "alpha_epoch": 2, "alpha_learning_rate": 8e-3, "checkpoint_every": 20,
            "augmentation": MILD,
        },
        "train": {
            "network": MINI, "data": EMBEDDED, "epochs": 14, "batch_size": 16, "learning_rate": 4e-3,
            "milestones": [12, 14], "checkpoint_every": 100, "augmentation": MILD,
        },
        "rootnet": {
            "network": {"input_size": 64}, "root_net": {"width": 16, "blocks": [1, 1, 1, 1], "channels": 64},
            "data": EMBEDDED, "epochs": 20, "batch_size": 32, "milestones": [15, 18], "checkpoint_every": 100,
            "augmentation": MILD,
        },
    },
    "search": {
        "search": {"network": {"input_size": 128, "depth": 32}}, "train": {"network": {"input_size": 128, "depth": 32}},
        "rootnet": ROOTS,
    },
    "small": {
        "search": {"network": {**PAPER, "cells": 10}}, "train": {"network": {**PAPER, "cells": 10}}, "rootnet": ROOTS,
    },
    "large": {
        "search": {"network": {**PAPER, "cells": 20}}, "train": {"network": {**PAPER, "cells": 20}}, "rootnet": ROOTS,
    },
}  # fmt: skip
"""``mini``: the demo's, for a CPU. ``search``: the paper's search stage. ``small``, ``large``: the paper's S and L.
``rootnet`` are the settings of ``train`` for that kind: ResNet-50 and the schedule of Moon et al., who vary no scale."""


def space_of(job: str, preset: str) -> SearchSpace:
    """The search space of a job's preset."""
    return SearchSpace.from_dict(PRESETS[preset][job].get("network", {}))
