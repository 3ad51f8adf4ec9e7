"""A run is a folder: configuration, metrics, TensorBoard events, checkpoint."""

import json
from pathlib import Path
from typing import Any

import torch
import yaml

from partnas.errors import PartnasError
from partnas.files import write_atomically, write_text
from partnas.space import SearchSpace

CHECKPOINT = "checkpoint.pt"
METRICS = "metrics.jsonl"
FORMAT = "partnas.checkpoint"


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1) + "\n")


class Run:
    """The folder of one job. Making the object writes nothing; :meth:`open` does.

    Args:
        path: The folder.
        job: ``search`` or ``train``; a checkpoint of the other job is refused.
        resume: Go on from ``checkpoint.pt``. Without it a folder that already holds a run is refused.
        writes: Whether this process is the one that writes; the other ranks only read.

    Raises:
        PartnasError: The folder holds a run and ``resume`` is false, or ``resume`` finds nothing to go on from.
    """

    def __init__(self, path: Path, job: str, resume: bool = False, writes: bool = True):
        self.path = Path(path)
        self.job = job
        self.writes = writes
        self._events: Any = None
        if resume and not self.checkpoint_path.exists():
            raise PartnasError(f"{self.checkpoint_path}: nothing to resume; start without --resume")
        if writes and not resume and (self.metrics_path.exists() or self.checkpoint_path.exists()):
            raise PartnasError(f"{self.path}: holds a run already; add --resume to go on, or choose another --out")

    def open(self, config: dict[str, Any], step: int) -> None:
        """Make the folder, write ``config.yaml``, and drop the metrics of steps after ``step``."""
        if not self.writes:
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PartnasError(f"{self.path}: cannot be made ({error.strerror}); choose another --out") from None
        write_text(self.path / "config.yaml", yaml.safe_dump(config, sort_keys=False))
        self._forget_after(step)

    def write(self, name: str, value: Any) -> None:
        """Write ``value`` as JSON into the folder."""
        if self.writes:
            write_json(self.path / name, value)

    @property
    def checkpoint_path(self) -> Path:
        return self.path / CHECKPOINT

    @property
    def metrics_path(self) -> Path:
        return self.path / METRICS

    def log(self, row: dict[str, Any]) -> None:
        """Append one line to ``metrics.jsonl`` and its numbers to the TensorBoard events."""
        if not self.writes:
            return
        with open(self.metrics_path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"job": self.job, **row}) + "\n")
        if self._events is None:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(self.path / "events"))
        for name, value in row.items():
            if isinstance(value, int | float) and name not in ("step", "epoch"):
                self._events.add_scalar(f"{self.job}/{name}", value, row["step"])

    def _forget_after(self, step: int) -> None:
        if not self.metrics_path.exists():
            return
        kept = []
        for line in self.metrics_path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if row.get("step", 0) <= step:
                kept.append(json.dumps(row))
        write_text(self.metrics_path, "".join(line + "\n" for line in kept))

    def save(self, state: dict[str, Any]) -> None:
        """Write ``checkpoint.pt`` whole or not at all."""
        if not self.writes:
            return
        record = {"format": FORMAT, "version": 1, "job": self.job, **state}
        write_atomically(self.checkpoint_path, lambda temporary: torch.save(record, temporary))

    def load(self, network_spec: dict[str, Any]) -> dict[str, Any]:
        """This run's checkpoint, after checking that it is of this job and of this network."""
        record = load_checkpoint(self.checkpoint_path)
        if record["job"] != self.job:
            raise PartnasError(
                f"{self.checkpoint_path}: job is {record['job']!r}, not {self.job!r}; name the right run"
            )
        saved = with_all_fields(record["network"])
        if saved != network_spec:
            fields = ", ".join(sorted(differing_fields(saved, network_spec)))
            raise PartnasError(
                f"{self.checkpoint_path}: network differs from the configuration in {fields}; resume with the settings "
                f"in {self.path / 'config.yaml'} or start a new run"
            )
        return record

    def close(self) -> None:
        if self._events is not None:
            self._events.close()


def with_all_fields(network: dict[str, Any]) -> dict[str, Any]:
    """A network's description with the fields of the search space that an earlier version did not write."""
    if "space" not in network:
        return network
    return {**network, "space": SearchSpace.from_dict(network["space"]).to_dict()}


def differing_fields(left: Any, right: Any, prefix: str = "") -> list[str]:
    """The dotted names of the fields in which two nested dictionaries differ."""
    if isinstance(left, dict) and isinstance(right, dict):
        names = []
        for key in left.keys() | right.keys():
            names += differing_fields(left.get(key), right.get(key), f"{prefix}{key}.")
        return names
    return [] if left == right else [prefix.rstrip(".")]


def load_checkpoint(path: Path, map_location: str = "cpu") -> dict[str, Any]:
    """Read a checkpoint without unpickling anything but tensors and plain containers.

    Raises:
        PartnasError: The file is missing, truncated, not a checkpoint of this program, or lacks a field.
    """
    path = Path(path)
    if path.is_dir():
        path = path / CHECKPOINT
    if not path.exists():
        raise PartnasError(f"{path}: no such checkpoint; name a run folder or its {CHECKPOINT}")
    try:
        record = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise PartnasError(f"{path}: broken or truncated checkpoint ({reason}); copy it again or train again") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise PartnasError(f"{path}: format is not {FORMAT!r}; this file was not written by partnas search or train")
    for field in ("version", "job", "network", "weights"):
        if field not in record:
            raise PartnasError(f"{path}: field {field!r} is missing; the checkpoint is damaged, train again")
    if record["version"] != 1:
        raise PartnasError(f"{path}: version {record['version']} is not known; update partnas")
    return record


def load_weights(network: torch.nn.Module, record: dict[str, Any], path: Path) -> None:
    """Copy a checkpoint's weights into ``network``.

    Raises:
        PartnasError: A weight is missing, superfluous, or of another shape.
    """
    weights = record["weights"]
    expected = network.state_dict()
    for name in [*expected, *weights]:
        have = tuple(weights[name].shape) if name in weights else None
        want = tuple(expected[name].shape) if name in expected else None
        if have != want:
            raise PartnasError(
                f"{path}: weights[{name!r}] has shape {have} where this network has {want}; "
                "it is a checkpoint of another network"
            )
    network.load_state_dict(weights)
