"""What a job may be told: defaults from the paper, presets, a YAML file, single settings; later ones win."""

from pathlib import Path
from typing import Any, Literal, TypeVar

import pydantic
import yaml

from partnas.data.augmentation import Augmentation
from partnas.errors import PartnasError
from partnas.presets import PRESETS
from partnas.space import SearchSpace

LARGEST = 1e38
"""Of the numbers that the optimizers calculate with in float32."""


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")


WITH_DEPTH = ("human36m", "muco")
FOLDERS = {"human36m": "Human36M", "mpii": "MPII", "coco": "MSCOCO", "muco": "MuCo", "mupots": "MuPoTS"}
"""The sets, and where each stands in the public release that holds them all."""


class SetConfig(Strict):
    """One data set."""

    name: Literal["human36m", "mpii", "coco", "muco"]
    root: str | None = pydantic.Field(
        None, description="its folder, or the one above; of human36m the embedded sample if null"
    )


class DataConfig(Strict):
    """Where the images are and which of them are read."""

    root: str | None = pydantic.Field(
        None,
        description="Human3.6M: folder with images/ and annotations/, or the one above; the embedded sample if null",
    )
    sets: list[SetConfig] = pydantic.Field(
        [], description="sets to mix, in the place of root; half of every epoch is 3D where some have no 3D annotation"
    )
    skip_broken: bool = pydantic.Field(False, description="leave out people whose annotation is broken, and list them")
    roots: str | None = pydantic.Field(
        None, description="boxes and root positions of the test people, in a file such as RootNet writes"
    )
    protocol: Literal[1, 2] = 2
    train_stride: int = pydantic.Field(
        5,
        ge=1,
        description="keep frames with frame_idx % stride == 0 in training; 1 if not given for the embedded sample",
    )
    test_stride: int = pydantic.Field(64, ge=1, description="the same in testing")
    monitor_frames: int = pydantic.Field(
        128, ge=0, description="training frames held out of training and measured after every epoch"
    )
    workers: int = pydantic.Field(0, ge=0, description="loader processes")
    cache: bool = pydantic.Field(
        False, description="keep decoded images in memory; loader processes do so for an epoch"
    )

    @pydantic.model_validator(mode="after")
    def _check_sets(self) -> "DataConfig":
        if self.sets and self.root is not None:
            raise ValueError("root and sets exclude each other; write root as a set of the name human36m")
        for chosen in self.sets:
            if chosen.root is None and chosen.name != "human36m":
                raise ValueError(f"sets: {chosen.name}: root is missing; name the set's folder")
        if self.sets and not any(chosen.name in WITH_DEPTH for chosen in self.sets):
            raise ValueError(f"sets: none of them is 3D; add one of {', '.join(WITH_DEPTH)}")
        return self

    @pydantic.model_validator(mode="after")
    def _take_the_sample_whole(self) -> "DataConfig":
        if self.in_order()[0].root is None:
            for name in {"train_stride", "test_stride"} - self.model_fields_set:
                setattr(self, name, 1)
        return self

    def in_order(self) -> list[SetConfig]:
        """All sets, the first 3D one first: its parts are the network's, its people are what is measured."""
        sets = self.sets or [SetConfig(name="human36m", root=self.root)]
        first = next(chosen for chosen in sets if chosen.name in WITH_DEPTH)
        return [first, *(chosen for chosen in sets if chosen is not first)]


class JobConfig(Strict):
    """Settings that searching and training share. Epochs count from 1."""

    network: dict[str, Any] = pydantic.Field(default_factory=dict, description="fields of partnas.SearchSpace")
    data: DataConfig = DataConfig()
    epochs: int = pydantic.Field(ge=1)
    steps_per_epoch: int | None = pydantic.Field(None, ge=1, description="the whole training set if null")
    batch_size: int = pydantic.Field(ge=1, description="images of a step, over all processes")
    learning_rate: float = pydantic.Field(1e-3, gt=0, le=LARGEST)
    milestones: list[int] = pydantic.Field(description="epochs from whose first step on the learning rate is a tenth")
    augmentation: Augmentation | None = pydantic.Field(
        Augmentation(), description="fields of Augmentation; null for none"
    )
    seed: int = pydantic.Field(0, ge=0)
    threads: int | None = pydantic.Field(None, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    checkpoint_every: int = pydantic.Field(200, ge=1, description="steps between checkpoints")

    def space(self) -> SearchSpace:
        """The search space; its skeleton is that of the first 3D set.

        Raises:
            PartnasError: A field is unknown or out of range, or names another skeleton or some of its parts.
        """
        skeleton = self.data.in_order()[0].name
        space = SearchSpace.from_dict({"skeleton": skeleton, **self.network})
        if space.skeleton != skeleton:
            raise PartnasError(
                f"network.skeleton: {space.skeleton} is not that of the first 3D set, {skeleton}; leave it out"
            )
        if space.parts != len(space.body.parts):
            raise PartnasError(
                f"network.parts: {space.parts} is not the number of parts of {skeleton}, {len(space.body.parts)}; "
                "leave it out"
            )
        return space


class SearchConfig(JobConfig):
    """Defaults: section 4.2 of the paper, search stage."""

    epochs: int = pydantic.Field(25, ge=1)
    batch_size: int = pydantic.Field(40, ge=1)
    milestones: list[int] = [15, 20]
    kind: Literal["supernet", "backbone_supernet"] = pydantic.Field(
        "supernet", description="backbone_supernet: deconvolutions in the fusion cells' place (Table 3)"
    )
    order: Literal["first", "second"] = pydantic.Field("first", description="of the architecture gradient (Eq. 5)")
    recompute: Literal["none", "light", "cell"] = pydantic.Field(
        "light", description="what backward forms anew rather than keeps"
    )
    activation_dtype: Literal["float32", "bfloat16"] = pydantic.Field(
        "float32", description="what the supernet's maps are stored in"
    )
    cuda_graph: bool = pydantic.Field(True, description="record steps as CUDA graphs on a GPU, where that works")
    alpha_epoch: int = pydantic.Field(8, ge=1, description="the first epoch that updates the alphas")
    alpha_learning_rate: float = pydantic.Field(8e-4, gt=0, le=LARGEST)
    alpha_weight_decay: float = pydantic.Field(3e-4, ge=0, le=LARGEST)


class RootNetConfig(Strict):
    """Size of a root network; the defaults are a ResNet-50's."""

    width: int = pydantic.Field(64, ge=1, description="channels of the ResNet's first 3x3 convolutions")
    blocks: list[int] = pydantic.Field([3, 4, 6, 3], description="bottlenecks of the ResNet's four stages")
    channels: int = pydantic.Field(256, ge=1, description="channels of the deconvolutions")


class TrainConfig(JobConfig):
    """Defaults: section 4.2 of the paper, evaluation stage."""

    epochs: int = pydantic.Field(20, ge=1)
    batch_size: int = pydantic.Field(64, ge=1)
    milestones: list[int] = [12, 16]
    kind: Literal["partnet", "resnet50", "deconv", "rootnet"] = "partnet"
    genotype: str | None = pydantic.Field(
        None, description="genotype.json or the folder of a search; not for resnet50 and rootnet"
    )
    part_order: list[int] | None = pydantic.Field(None, description="order of the heatmaps (the paper's shuffle)")
    intermediate_supervision: bool = False
    pretrained: str | None = pydantic.Field(
        None,
        description="safetensors file of a ResNet's weights, named as torchvision and timm name them, from which the "
        "backbone of kinds resnet50 and rootnet starts",
    )
    root_net: RootNetConfig = pydantic.Field(
        RootNetConfig(), description="of kind rootnet, which takes from network its input_size"
    )


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        PartnasError: The file is missing, is no YAML, or holds something other than a mapping.
    """
    try:
        value = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise PartnasError(
            f"{path}: cannot be read ({getattr(error, 'strerror', 'not text')}); check the path"
        ) from None
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f"line {where.line + 1}" if where else "unknown line"
        raise PartnasError(f"{path}: {line}: not YAML; mend the syntax") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise PartnasError(f"{path}: holds a {type(value).__name__}, not a mapping of settings")
    return value


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """``base`` with ``over`` laid on top, dictionaries field by field.

    Raises:
        PartnasError: Fields are laid on a value that has none, which would be lost.
    """
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, dict) and below is not None:
            if not isinstance(below, dict):
                raise PartnasError(f"{key}: {below!r} is not a mapping of settings; set its fields, {key}.NAME=VALUE")
            value = merge(below, value)
        merged[key] = value
    return merged


def parse_settings(settings: list[str]) -> dict[str, Any]:
    """``["network.channels=8", "epochs=2"]`` as a nested dictionary; the values are YAML scalars or lists."""
    parsed: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not name:
            raise PartnasError(f"--set {setting}: not of the form NAME=VALUE, such as network.channels=8")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise PartnasError(f"--set {setting}: the value is not YAML") from None
        for part in reversed(name.split(".")):
            value = {part: value}
        parsed = merge(parsed, value)
    return parsed


def parse_data(values: list[str]) -> dict[str, Any]:
    """``["human36m=DIR", "mpii=DIR"]`` as fields of ``DataConfig``; one plain ``DIR`` is the folder of Human3.6M.

    ``["human36m,mpii=DIR"]`` names two sets that stand in folders of their own below one.
    """
    sets = []
    for value in values:
        names, equals, root = value.partition("=")
        chosen = names.split(",")
        if not equals or not set(chosen) <= set(FOLDERS):
            chosen, root = ["human36m"], value
        sets += [{"name": name, "root": root} for name in chosen]
    if len(values) == 1 and sets[0]["root"] == values[0]:
        return {"root": values[0], "sets": []}
    return {"root": None, "sets": sets}


def load_config(
    job: Literal["search", "train"],
    preset: str | None = None,
    file: Path | None = None,
    settings: dict[str, Any] | None = None,
) -> SearchConfig | TrainConfig:
    """The configuration of a job: defaults, then the preset, then the file, then single settings.

    Raises:
        PartnasError: An unknown preset, an unknown field, or a value out of range; the message names the field.
    """
    if preset is not None and preset not in PRESETS:
        raise PartnasError(f"preset: {preset!r} is not known; use one of {', '.join(PRESETS)}")
    values: dict[str, Any] = {}
    over = merge(read_yaml(file) if file is not None else {}, settings or {})
    if preset is not None:
        values = PRESETS[preset]["rootnet" if job == "train" and over.get("kind") == "rootnet" else job]
    values = merge(values, over)
    config = _validated(SearchConfig if job == "search" else TrainConfig, values, str(file or "settings"))
    check_batch_norm(config)
    return config


def data_config(values: dict[str, Any], where: str = "data") -> DataConfig:
    """A ``DataConfig`` from its fields.

    Raises:
        PartnasError: An unknown field, or a value out of range; the message names the field after ``where``.
    """
    return _validated(DataConfig, values, where)


Model = TypeVar("Model", bound=pydantic.BaseModel)


def _validated(model: type[Model], values: dict[str, Any], where: str) -> Model:
    try:
        return model.model_validate(values)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise PartnasError(f"{where}: {field}: {first['msg']}") from None


def check_batch_norm(config: JobConfig) -> None:
    """Raises ``PartnasError`` where the smallest maps of a training batch give batch norm one value a channel."""
    space = config.space()
    side = space.input_size // 2**space.reductions
    if config.batch_size * side * side == 1:
        raise PartnasError(
            f"batch_size: one image of {space.input_size} x {space.input_size} pixels has one value a channel left after "
            f"{space.reductions} reductions, and batch norm needs more; take a larger batch_size or network.input_size"
        )
