"""Which subjects a run was trained on, and whether it may be measured on those of a protocol (section 4.1 of the paper)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from partnas.config import DataConfig, SetConfig, data_config, read_yaml
from partnas.data import SPLITS
from partnas.errors import PartnasError

DEFAULT = 2
"""The protocol of a run that does not say its own."""


def trained_on(run: Path) -> dict[str, Any] | None:
    """What the ``config.yaml`` beside a run's checkpoint says of its training, in a form that JSON can hold.

    Args:
        run: A training's folder or checkpoint.

    Returns:
        ``sets``, the names of the sets, of which the embedded sample has its own, and ``protocol``; None where there is no
        such file, or where it says nothing of data.

    Raises:
        PartnasError: The file is broken.
    """
    run = Path(run)
    path = (run if run.is_dir() else run.parent) / "config.yaml"
    written = read_yaml(path).get("data") if path.is_file() else None
    if written is None:
        return None
    data = data_config(written, f"{path}: data")
    return {"sets": [_name(chosen) for chosen in data.in_order()], "protocol": data.protocol}


def own_protocol(run: Path) -> int:
    """The protocol of Human3.6M by which a run was trained, ``DEFAULT`` where it does not say."""
    trained = trained_on(run)
    return DEFAULT if trained is None else trained["protocol"]


def require_unseen(run: Path, trained: Mapping[str, Any] | None, data: DataConfig) -> None:
    """See that a run was trained on none of the test subjects of ``data``; ``trained`` is as :func:`trained_on` gives it.

    Raises:
        PartnasError: It was.
    """
    tested = data.in_order()[0]
    if trained is None or tested.name != "human36m" or _name(tested) not in trained["sets"]:
        return
    own = trained["protocol"]
    seen = sorted(set(SPLITS[own]["train"]) & set(SPLITS[data.protocol]["test"]))
    if seen:
        raise PartnasError(
            f"{run}: was trained on subject {seen[0]} (config.yaml: data.protocol {own}), whom protocol {data.protocol} "
            f"tests on; use --protocol {own}, or train by protocol {data.protocol}"
        )


def _name(chosen: SetConfig) -> str:
    return "embedded sample" if chosen.name == "human36m" and chosen.root is None else chosen.name
