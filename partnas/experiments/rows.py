"""Which rows an experiment has, and what each changes of the settings that all of them share."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from partnas.skeleton import HUMAN36M
from partnas.space import OPERATIONS

Settings = dict[str, Any]

BUDGETS: dict[str, dict[str, tuple[str, Settings]]] = {
    "paper": {"search": ("search", {}), "train": ("small", {})},
    "mini": {
        "search": ("mini", {"data": {"monitor_frames": 16}}),
        "train": ("mini", {"epochs": 4, "milestones": [4], "data": {"monitor_frames": 64}}),
    },
}
"""For each preset of an experiment and each job: the job's preset, and what is changed of it for every row."""


@dataclass(frozen=True)
class Row:
    """One row of a table: a search, where it has cells, and a training.

    Attributes:
        name: Of its folder.
        title: As printed; the paper's name of the row where it has one.
        network: Fields of the search space that search and training share.
        search: Further settings of the search. Rows with the same ones share one search a seed.
        train: Further settings of the training.
        searched: Whether the network is made of found cells.
        draw: Not the found cells but the ``draw``-th random ones with as many parameters at most.
        words: What stands in the table's columns of words.
    """

    name: str
    title: str
    network: Settings = field(default_factory=dict)
    search: Settings = field(default_factory=dict)
    train: Settings = field(default_factory=dict)
    searched: bool = True
    draw: int | None = None
    words: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Question:
    """What ``science`` asks: is ``base`` better than ``others``?

    Attributes:
        title: The question.
        base: Name of the row that the paper has ahead.
        others: Names of the rows that it is held against.
        paper: What the paper says.
        as_group: What the mean of all ``others`` is called, where that is of interest too.
        expecting: Who or what holds that ``base`` is better.
    """

    title: str
    base: str
    others: tuple[str, ...]
    paper: str
    as_group: str | None = None
    expecting: str = "one expects after the paper"


def without(prefix: str) -> list[str]:
    return [name for name in OPERATIONS if not name.startswith(prefix)]


def fusion_nodes(count: int) -> Settings:
    return {"fusion_nodes": count}


def shuffled(number: int) -> Row:
    """A row whose parts are in the ``number``-th random order (section 4.3 of the paper, Fig. 5)."""
    order = np.random.default_rng(number).permutation(len(HUMAN36M.parts)).tolist()
    return Row(f"shuffled{number}", f"Ours, shuffled {number}", fusion_nodes(2), train={"part_order": order})


BOTH = {"dilated": "✓", "separable": "✓"}
# The stride of a ResNet is 32: three deconvolutions bring it to the heatmaps of every preset. It has no cells; those
# stand for its five reductions.
RESNET = Row(
    "resnet50", "Ours, ResNet", train={"kind": "resnet50", "network": {"cells": 8, "reductions": 5, "fusions": 3}}, searched=False,
    words={"backbone": "ResNet50", "pretrained": "–"},
)  # fmt: skip
BACKBONE = Row(
    "backbone", "Ours, BS", fusion_nodes(2), search={"kind": "backbone_supernet"}, train={"kind": "deconv"},
    words={"backbone": "Searched"},
)  # fmt: skip
WHOLE = Row("whole", "Ours, WS", fusion_nodes(2))

EXPERIMENTS: dict[str, tuple[Row, ...]] = {
    "table1": (
        *(Row(f"ni{n}", f"Ours, N_i = {n}", fusion_nodes(n), words=BOTH) for n in (1, 2, 3, 4)),
        Row(
            "ni2-no-dilated", "Ours, N_i = 2", {**fusion_nodes(2), "operations": without("dil_conv")},
            words={"separable": "✓"},
        ),
        Row(
            "ni2-no-separable", "Ours, N_i = 2", {**fusion_nodes(2), "operations": without("sep_conv")},
            words={"dilated": "✓"},
        ),
    ),
    "table2": (Row("original", "Ours, original", fusion_nodes(2)), *(shuffled(n) for n in (1, 2, 3))),
    "table3": (RESNET, BACKBONE, WHOLE),
    "table4": tuple(
        Row(f"nc{n}", f"Ours, N_c = {n}", fusion_nodes(2), train={"network": {"cells": n}}) for n in (10, 15, 20)
    ),
    "science": (
        Row("found", "found cells, N_i = 2", fusion_nodes(2)),
        *(Row(f"random{n}", f"random cells {n}, N_i = 2", fusion_nodes(2), draw=n) for n in (1, 2, 3, 4, 5)),
        Row("ni1", "found cells, N_i = 1", fusion_nodes(1)),
        Row("ni3", "found cells, N_i = 3", fusion_nodes(3)),
        *(replace(shuffled(n), title=f"found cells, parts in shuffled order {n}") for n in (1, 2, 3)),
        replace(BACKBONE, title="found backbone, deconvolutions"),
        replace(RESNET, title="ResNet-50, deconvolutions"),
    ),
}  # fmt: skip

QUESTIONS = (
    Question(
        "Are found cells better than random ones of the same space, with as many parameters at most?",
        "found", tuple(f"random{n}" for n in (1, 2, 3, 4, 5)),
        "not asked; that a search finds better cells than chance is what its method rests on", "the random cells",
        expecting="the paper's method supposes",
    ),
    Question(
        "Are two part groups better than one or three?", "found", ("ni1", "ni3"),
        "N_i = 1 is worse than N_i = 2 by 5.3 mm, N_i = 3 by 7.3 mm (Table 1)",
    ),
    Question(
        "Are the heads part-aware, so that parts in another order are estimated worse?",
        "found", tuple(f"shuffled{n}" for n in (1, 2, 3)), "worse by more than 3 mm (Table 2)", "the shuffled orders",
    ),
    Question(
        "Are fusion cells better than deconvolutions, and than a ResNet-50 with deconvolutions?",
        "found", ("backbone", "resnet50"),
        "deconvolutions on a searched backbone are worse by 3.5 mm, ResNet-50 (which it pretrained) by 0.3 mm (Table 3)",
    ),
)  # fmt: skip
