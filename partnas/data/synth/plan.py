"""What is rendered: which instants of which clip, by which subject, under which camera; fixed by the image count."""

from dataclasses import dataclass

SPLIT_CLIPS = {
    "train": ("backflip", "cartwheel", "crawl", "dance_a", "getup_faceup", "jump", "kick", "roll", "spin", "walk"),
    "validation": ("getup_facedown", "punch"),
    "test": ("dance_b", "run", "spinkick"),
}
"""Clips, not frames, are split: a motion of one split is never seen in another."""
SPLIT_SUBJECTS = {"train": (1, 5, 6), "validation": (7, 8), "test": (9, 11)}
SHARES = {"train": 0.76, "validation": 0.1, "test": 0.14}
ACTIONS = {name: index for index, name in enumerate(sorted(sum(SPLIT_CLIPS.values(), ())), start=2)}
"""Clip name (Human3.6M's action name) -> action index, from 2 as in Human3.6M."""
SEQUENCES = 2
"""Sequences (subactions) of a subject and clip; each has one of the subject's four cameras."""
VARIED = 0.65
"""Share of the training pictures whose joints are varied; validation and test show the clips as recorded."""


@dataclass(frozen=True)
class Item:
    """One picture: ``share`` in 0–1 is the place of its time slot in the clip, ``slot`` that slot's length."""

    index: int
    split: str
    subject: int
    action: str
    action_idx: int
    subaction_idx: int
    cam_idx: int
    frame_idx: int
    share: float
    slot: float

    @property
    def folder(self) -> str:
        return f"s_{self.subject:02d}_act_{self.action_idx:02d}_subact_{self.subaction_idx:02d}_ca_{self.cam_idx:02d}"

    @property
    def file_name(self) -> str:
        """Path below images/, with frame_idx + 1 in six digits."""
        return f"{self.folder}/{self.folder}_{self.frame_idx + 1:06d}.jpg"


def spread(total: int, parts: int) -> list[int]:
    """``total`` cut into ``parts`` whole numbers that differ by at most one."""
    return [total * (index + 1) // parts - total * index // parts for index in range(parts)]


def split_sizes(images: int) -> dict[str, int]:
    """Pictures of each split; they add up to ``images``."""
    validation = round(images * SHARES["validation"])
    test = round(images * SHARES["test"])
    return {"train": images - validation - test, "validation": validation, "test": test}


def make_plan(images: int) -> list[Item]:
    """The ordered list of ``images`` pictures: subjects, clips, sequences, then equal time slots of the clip."""
    items = []
    for split, size in split_sizes(images).items():
        pairs = [(subject, clip) for subject in SPLIT_SUBJECTS[split] for clip in SPLIT_CLIPS[split]]
        for number, ((subject, clip), count) in enumerate(zip(pairs, spread(size, len(pairs)), strict=True)):
            for sequence, frames in enumerate(spread(count, SEQUENCES)):
                camera = (number + sequence * 2 + number // 4) % 4 + 1
                for frame in range(frames):
                    items.append(
                        Item(
                            len(items), split, subject, clip, ACTIONS[clip], sequence + 1, camera, frame,
                            frame / frames, 1 / frames,
                        )
                    )  # fmt: skip
    return items
