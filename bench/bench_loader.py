"""Loading: images a second of one core by stage, against plain OpenCV and torch; memory of 4 workers over a million people.

``python bench/bench_loader.py [--rounds 9] [--only human36m] [--people 1000000] [--csv FILE]``

Pictures are JPEG files of the embedded sample, enlarged and with grain, so that they take about as many bytes as
photographs; they come from the page cache. The plain loader reads with ``cv2.imread``, crops, turns, and mirrors in a warp
each, and normalises in torch. Both read the same people at the same input size and end with a batch in channels-last
memory. The memory of processes is their PSS: a page that n of them share counts as 1/n in each.
bench_annotations.py times the reading of annotation files.
"""

import argparse
import csv
import os
import tempfile
import warnings
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from timing import interleaved, machine
from torch.utils.data import DataLoader, default_collate

from partnas.allocator import keep_freed_memory
from partnas.data import Augmentation, Frames, PoseDataset, collate, embedded_root, normalise, read_human36m
from partnas.data.crop import crop_transform, of_reduced, shrink_of, warp
from partnas.data.images import MEAN, STD, read_image, reduction_for

SIZE, HEATMAP, DEPTH = 256, 64, 64
BATCH = 16


class Kind(NamedTuple):
    """What pictures of a set are like: size, JPEG quality, a person's height in pixels."""

    width: int
    height: int
    quality: int
    person: tuple[int, int]


KINDS = {
    "human36m": Kind(1000, 1000, 90, (420, 680)),
    "human36m, quality 75": Kind(1000, 1000, 75, (420, 680)),
    "coco": Kind(640, 480, 92, (100, 420)),
}


def pictures(folder: Path, kind: Kind, count: int) -> Frames:
    """``count`` JPEG files of a kind, and a person in each."""
    random = np.random.default_rng(0)
    sample = read_human36m(embedded_root(), [9, 11])
    sample = sample.subset(random.choice(len(sample), count, replace=False))
    factor = np.array([kind.width, kind.height]) / sample.image_sizes
    for index in range(count):
        small = cv2.imread(sample.image_path(index))
        large = cv2.resize(small, (kind.width, kind.height), interpolation=cv2.INTER_CUBIC)
        grain = cv2.GaussianBlur(random.normal(0, 10, large.shape[:2]).astype(np.float32), (0, 0), 0.8)
        large = np.clip(large + grain[..., None], 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{index}.jpg"), large, [cv2.IMWRITE_JPEG_QUALITY, kind.quality])
    frames = sample.subset(np.arange(count))
    high = random.uniform(*kind.person, count)
    size = np.column_stack([0.45 * high, high])
    frames.bboxes = np.column_stack([random.uniform(0, 1, (count, 2)) * ([kind.width, kind.height] - size), size])
    frames.root, frames.image_names = folder, np.array([f"{index}.jpg".encode() for index in range(count)])
    frames.image_sizes = np.tile(np.int32([kind.width, kind.height]), (count, 1))
    frames.joints_image = (sample.joints_image * factor[:, None]).astype(np.float32)
    return frames


class Plain(torch.utils.data.Dataset):
    """The same crops and values by one library call after the other; without occlusion."""

    def __init__(self, ours: PoseDataset):
        self.ours = ours
        self.mean, self.std = (torch.from_numpy(values)[:, None, None] for values in (MEAN, STD))

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        source = self.ours.source
        drawn = self.ours.augmentation.draw(np.random.default_rng([0, 0, index]))
        image = cv2.cvtColor(cv2.imread(source.image_path(index)), cv2.COLOR_BGR2RGB)
        box = self.ours.boxes[index]
        image = cv2.warpAffine(image, crop_transform(box, SIZE, scale=drawn.scale), (SIZE, SIZE))
        turn = cv2.getRotationMatrix2D((SIZE / 2, SIZE / 2), drawn.rotation, 1)
        image = cv2.warpAffine(image, turn, (SIZE, SIZE))
        if drawn.flip:
            image = cv2.warpAffine(image, np.array([[-1.0, 0, SIZE - 1], [0, 1, 0]]), (SIZE, SIZE))
        image = np.clip(image * drawn.colour.astype(np.float32), 0, 255)
        tensor = (torch.from_numpy(image).permute(2, 0, 1) / 255 - self.mean) / self.std
        transform = crop_transform(box, SIZE, drawn.rotation, drawn.scale, drawn.flip)
        joints = source.joints_image[index] @ transform[:, :2].T + transform[:, 2]
        return {"image": tensor, "coordinates": torch.from_numpy(joints), "index": torch.tensor(index)}


def throughput(name: str, kind: Kind, options: argparse.Namespace, rows: list[dict]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = pictures(Path(folder), kind, BATCH)
        bytes_each = np.mean([path.stat().st_size for path in Path(folder).iterdir()])
        ours = PoseDataset(source, SIZE, HEATMAP, DEPTH, augmentation=Augmentation())
        bare = PoseDataset(source, SIZE, HEATMAP, DEPTH, augmentation=Augmentation(occlusion_probability=0))
        plain = Plain(bare)
        each = range(BATCH)
        drawn = [bare.augmentation.draw(np.random.default_rng([0, 0, index])) for index in each]
        maps = [
            crop_transform(ours.boxes[index], SIZE, d.rotation, d.scale, d.flip)
            for index, d in zip(each, drawn, strict=True)
        ]
        reductions = [reduction_for(shrink_of(m), source.image_sizes[0]) for m in maps]
        images = [read_image(source.image_path(index), reductions[index]) for index in each]
        reduced = [of_reduced(m, r) for m, r in zip(maps, reductions, strict=True)]
        crops = [warp(image, m, SIZE) for image, m in zip(images, reduced, strict=True)]
        samples = [ours[index] for index in each]
        plains = [plain[index] for index in each]
        objects = ours.augmentation.objects()

        stages = {
            "decode, whole": lambda: [read_image(source.image_path(index)) for index in each],
            "decode, reduced where the crop shrinks": lambda: [
                read_image(source.image_path(index), reductions[index]) for index in each
            ],
            "warp": lambda: [warp(image, m, SIZE) for image, m in zip(images, reduced, strict=True)],
            "augment: paste 1-7 objects": lambda: [objects.paste(crop, np.random.default_rng(1)) for crop in crops],
            "colour and normalise": lambda: [normalise(crop, d.colour) for crop, d in zip(crops, drawn, strict=True)],
            "collate": lambda: collate(samples),
            "all, as in training": lambda: collate([ours[index] for index in each]),
            "all, no objects": lambda: collate([bare[index] for index in each]),
            "plain, no objects": lambda: default_collate([plain[index] for index in each])["image"].contiguous(
                memory_format=torch.channels_last
            ),
            "plain collate": lambda: default_collate(plains)["image"].contiguous(memory_format=torch.channels_last),
        }
        found = interleaved(stages, options.rounds)
    print(
        f"\n{name}: {kind.width}x{kind.height}, {bytes_each / 1e3:.0f} kB each, people {kind.person[0]}-{kind.person[1]} "
        f"pixels high, crops {SIZE}x{SIZE}, {sum(r > 1 for r in reductions)} of {BATCH} decoded smaller"
    )
    for stage, taken in found.items():
        rate = [BATCH / value for value in (taken.median, taken.high, taken.low)]
        print(
            f"  {stage:<40} {rate[0]:>8.0f} images/s ({rate[1]:.0f}-{rate[2]:.0f}), {1e3 * taken.median / BATCH:.2f} ms"
        )
        rows.append({"set": name, "stage": stage, "images_per_second": f"{rate[0]:.1f}"})
    print(
        f"  gain without objects {found['plain, no objects'].median / found['all, no objects'].median:.2f}x", flush=True
    )


def pss(process: int) -> float:
    """Megabytes of a process, shared pages by share."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) / 1e3


def memory(people: int) -> None:
    """What 4 forked workers add to a process that holds so many people."""
    with tempfile.TemporaryDirectory() as folder:
        few = pictures(Path(folder), KINDS["coco"], BATCH)
        source = few.subset(np.arange(people) % BATCH)
        arrays = sum(value.nbytes for value in vars(source).values() if isinstance(value, np.ndarray))
        dataset = PoseDataset(source, SIZE, HEATMAP, DEPTH, augmentation=Augmentation())
        alone = pss(os.getpid())
        order = np.random.default_rng(0).permutation(people)[: 40 * BATCH].tolist()
        with warnings.catch_warnings(action="ignore"):  # more workers than cores
            batches = iter(DataLoader(dataset, BATCH, sampler=order, num_workers=4, collate_fn=collate))
        for _ in range(32):
            next(batches)
        workers = [pss(worker.pid) for worker in batches._workers]
        together = pss(os.getpid()) + sum(workers)
        print(
            f"\n{people:,} people in arrays of {arrays / 1e6:.0f} MB: the process has {alone:.0f} MB PSS; with 4 workers, "
            f"after {32 * BATCH} people, all have {together:.0f} MB ({(together - alone) / 4:.0f} MB a worker; copies of "
            f"the arrays would be {4 * arrays / 1e6:.0f} MB)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default="", help="of human36m, coco, memory those with this in their name")
    parser.add_argument("--people", type=int, default=1_000_000)
    parser.add_argument("--device", choices=("cpu",), default="cpu", help="loading is the CPU's")
    parser.add_argument("--csv", type=Path, help="append the rows to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    keep_freed_memory()
    facts, rows = machine(), []
    print(f"{facts['cpu']}, one core, OpenCV {cv2.__version__}, torch {facts['torch']}; medians (quartiles)")
    for name, kind in KINDS.items():
        if options.only in name:
            throughput(name, kind, options, rows)
    if options.only in "memory":
        memory(options.people)
    if options.csv and rows:
        is_new = not options.csv.exists()
        with options.csv.open("a", newline="") as file:
            writer = csv.DictWriter(file, [*facts, *rows[0]])
            if is_new:
                writer.writeheader()
            writer.writerows({**facts, **row} for row in rows)


if __name__ == "__main__":
    main()
