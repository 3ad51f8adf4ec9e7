"""What an experiment is: its rows, the settings of each job, and the folder that they are kept in."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from partnas.config import SearchConfig, TrainConfig, load_config, merge
from partnas.datasets import SEARCH_TRAIN, SEARCH_VALIDATION, TEST, TRAIN, require_annotations
from partnas.errors import PartnasError
from partnas.experiments.locks import LOCK, locked
from partnas.experiments.rows import BUDGETS, EXPERIMENTS, Row, Settings
from partnas.networks import WITH_RESNET
from partnas.nn.resnet import ResNet50
from partnas.pretrained import load_pretrained
from partnas.run import differing_fields, write_json

FORMAT = "partnas.experiment"
FILE = "experiment.json"
FAILED = "failed.txt"
JOBS = ("search", "train")
SEED_FOLDER = re.compile("seed(0|[1-9][0-9]*)")


@dataclass(frozen=True)
class Plan:
    """An experiment and its folder: ``experiment.json``, ``rows/NAME/seedK/``, and the tables.

    A seed's folder holds the runs ``search/`` and ``train/`` and, once the training is complete, ``evaluation.json``.
    A run that cannot be finished has a ``failed.txt`` that says why.

    Attributes:
        name: One of ``EXPERIMENTS``.
        out: The folder.
        preset: One of ``BUDGETS``.
        settings: For ``search`` and ``train``, settings of that job in every row; a row's own win over them.
        machine: Settings that say how to compute and not what: threads and device.

    Raises:
        PartnasError: An unknown experiment, preset or job, or a job's settings are none.
    """

    name: str
    out: Path
    preset: str = "paper"
    settings: Settings = field(default_factory=dict)
    machine: Settings = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what, value, known in (
            ("experiment", self.name, EXPERIMENTS),
            ("preset", self.preset, BUDGETS),
            *(("--set", job, JOBS) for job in self.settings),
        ):
            if value not in known:
                raise PartnasError(f"{what}: {value!r} is not known; use one of {', '.join(known)}")
        for job, values in self.settings.items():
            if not isinstance(values, dict):
                raise PartnasError(f"--set {job}: {values!r} is not a mapping of settings; use --set {job}.NAME=VALUE")

    @property
    def rows(self) -> tuple[Row, ...]:
        return EXPERIMENTS[self.name]

    def chosen(self, names: Sequence[str]) -> tuple[Row, ...]:
        """The rows of these names, all if there are none.

        Raises:
            PartnasError: There is no such row.
        """
        known = [row.name for row in self.rows]
        for name in names:
            if name not in known:
                raise PartnasError(f"row: {self.name} has none named {name!r}; use some of {', '.join(known)}")
        return tuple(row for row in self.rows if not names or row.name in names)

    def open(self) -> None:
        """Make the folder, or see that it is this experiment's. Several processes may do so at once.

        Raises:
            PartnasError: It holds another experiment, or something else, or cannot be written, or a setting is bad, or a
                data set's folder or an annotation file is missing, or pretrained weights are broken or for none of the
                rows.
        """
        for row in self.rows:
            require_annotations(self.train_config(row, 0, None).data, TRAIN, TEST)
            if row.searched:
                require_annotations(self.search_config(row, 0).data, SEARCH_TRAIN, SEARCH_VALIDATION)
        path = self.out / FILE
        if not path.exists():
            self._require_pretrained()
        # Another process may be making the folder: it puts the lock and a temporary file there before FILE.
        others = [name for name in self._entries() if name != LOCK and not name.startswith(f".{FILE}.")]
        if others and not path.exists():
            raise PartnasError(f"{self.out}: holds something other than an experiment; choose another --out")
        with locked(self.out):
            if path.exists():
                self._require_same(path)
            else:
                write_json(path, self._record())

    def _require_pretrained(self) -> None:
        weights = self.settings.get("train", {}).get("pretrained")
        if weights is None:
            return
        if not any(row.train.get("kind") in WITH_RESNET for row in self.rows):
            raise PartnasError(f"--set train.pretrained: {self.name} has no row with a ResNet; leave it out")
        load_pretrained(ResNet50(), weights)

    def _entries(self) -> list[str]:
        try:
            return os.listdir(self.out)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise PartnasError(f"{self.out}: cannot be read ({error.strerror}); choose another --out") from None

    def _record(self) -> dict[str, Any]:
        return {
            "format": FORMAT, "version": 1, "experiment": self.name, "preset": self.preset, "settings": self.settings,
        }  # fmt: skip

    def _require_same(self, path: Path) -> None:
        try:
            theirs = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise PartnasError(f"{path}: cannot be read as JSON; choose another --out") from None
        if not isinstance(theirs, dict) or theirs.get("format") != FORMAT:
            raise PartnasError(f"{path}: format is not {FORMAT!r}, so it is no experiment's; choose another --out")
        if fields := differing_fields(theirs, self._record()):
            raise PartnasError(
                f"{path}: another experiment, it differs in {', '.join(sorted(fields))}; give the same experiment, "
                "--preset, --data and --set, or choose another --out"
            )

    def folder(self, row: Row, seed: int) -> Path:
        return self.out / "rows" / row.name / f"seed{seed}"

    def folders(self, row: Row) -> Iterator[tuple[int, Path]]:
        """The seeds that a row has a folder for, in order, and these folders."""
        names = [path.name for path in self.out.glob(f"rows/{row.name}/*")]
        for seed in sorted(int(match[1]) for name in names if (match := SEED_FOLDER.fullmatch(name))):
            yield seed, self.folder(row, seed)

    def result(self, row: Row, seed: int) -> Path:
        """The file of a row's figures, which is there once its training is complete."""
        return self.folder(row, seed) / "evaluation.json"

    def failure(self, row: Row, seed: int) -> Path | None:
        """The file on what keeps a row from being finished, its training or its search; None where nothing does."""
        if self.result(row, seed).exists():
            return None
        runs = [self.folder(row, seed) / "train", *([self.search_folder(row, seed)] if row.searched else [])]
        return next((path for run in runs if (path := run / FAILED).exists()), None)

    def search_folder(self, row: Row, seed: int) -> Path:
        """Where a row's search is: in the folder of the first row that has the same one."""
        owner = next(other for other in self.rows if _search_settings(other) == _search_settings(row))
        return self.folder(owner, seed) / "search"

    def search_config(self, row: Row, seed: int) -> SearchConfig:
        return self._config("search", _search_settings(row), seed)

    def train_config(self, row: Row, seed: int, genotype: Path | None) -> TrainConfig:
        own = merge({"network": row.network}, row.train)
        if genotype is not None:
            own["genotype"] = str(genotype)
        if own.get("kind") not in WITH_RESNET:
            own["pretrained"] = None
        return self._config("train", own, seed)

    def _config(self, job: str, own: Settings, seed: int) -> SearchConfig | TrainConfig:
        preset, budget = BUDGETS[self.preset][job]
        shared = merge(budget, self.settings.get(job, {}))
        return load_config(job, preset, None, merge(shared, {**own, "seed": seed, **self.machine}))


def _search_settings(row: Row) -> Settings | None:
    return merge({"network": row.network}, row.search) if row.searched else None
