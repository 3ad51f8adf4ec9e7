"""What an experiment is: its rows, the settings of each job, and the folder that they are kept in."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from partnas.config import SearchConfig, TrainConfig, load_config, merge
from partnas.errors import PartnasError
from partnas.experiments.rows import BUDGETS, EXPERIMENTS, Row, Settings
from partnas.run import differing_fields, write_json

FORMAT = "partnas.experiment"
JOBS = ("search", "train")


@dataclass(frozen=True)
class Plan:
    """An experiment and its folder: ``experiment.json``, ``rows/NAME/seedK/{search,train}/``, and the tables.

    Attributes:
        name: One of ``EXPERIMENTS``.
        out: The folder.
        preset: One of ``BUDGETS``.
        settings: For ``search`` and ``train``, settings of that job in every row; a row's own win over them.
        machine: Settings that say how to compute and not what: threads and device.

    Raises:
        PartnasError: An unknown experiment, preset or job.
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
        """Make the folder, or see that it is this experiment's.

        Raises:
            PartnasError: It holds another experiment, or something else, or a setting is bad.
        """
        path = self.out / "experiment.json"
        mine = {
            "format": FORMAT, "version": 1, "experiment": self.name, "preset": self.preset, "settings": self.settings,
        }  # fmt: skip
        if path.exists():
            try:
                theirs = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                raise PartnasError(f"{path}: cannot be read as JSON; choose another --out") from None
            if fields := differing_fields(theirs, mine):
                raise PartnasError(
                    f"{path}: another experiment, it differs in {', '.join(sorted(fields))}; give the same experiment, "
                    "--preset, --data and --set, or choose another --out"
                )
            return
        if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            raise PartnasError(f"{self.out}: holds something other than an experiment; choose another --out")
        for row in self.rows:
            self.train_config(row, 0, None)
            if row.searched:
                self.search_config(row, 0)
        write_json(path, mine)

    def folder(self, row: Row, seed: int) -> Path:
        return self.out / "rows" / row.name / f"seed{seed}"

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
        return self._config("train", own, seed)

    def _config(self, job: str, own: Settings, seed: int) -> SearchConfig | TrainConfig:
        preset, budget = BUDGETS[self.preset][job]
        shared = merge(budget, self.settings.get(job, {}))
        return load_config(job, preset, None, merge(shared, {**own, "seed": seed, **self.machine}))


def _search_settings(row: Row) -> Settings | None:
    return merge({"network": row.network}, row.search) if row.searched else None
