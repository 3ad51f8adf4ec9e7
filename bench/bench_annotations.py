"""Reading annotation files: seconds and memory for as many people as the real sets have.

``python bench/bench_annotations.py [--people 1000000] [--only NAME]``

A file of that size is written first, a thousand unlike people repeated under new ids, two to an image. ``kept`` is the
memory of the arrays that stay; ``peak`` is what the process needed beyond its start, with the file's pages that the
system maps and can drop (``file``).
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from pathlib import Path

import numpy as np

from partnas.data import coco, human36m, mpii, muco, mupots
from partnas.skeleton import MPII, MUCO, MUPOTS

UNLIKE = 1000
CENTRE, FOCAL = [1000.5, 1000.5], [1500.25, 1500.75]


def joints(parts, random):
    camera = random.uniform(-800, 800, (parts, 3)) + [0, 0, 4000]
    return camera.round(4).tolist(), (camera[:, :2] / camera[:, 2:] * FOCAL + CENTRE).round(4).tolist()


def labelled(parts, random):
    return [int(n) for x, y in random.integers(0, 600, (parts, 2)) for n in (x, y, 2)]


def flat_person(parts, outline):
    def person(random):
        fields = {"iscrowd": 0, "num_keypoints": parts, "keypoints": labelled(parts, random), "category_id": 1}
        return fields | ({"segmentation": [random.uniform(0, 600, 60).round(2).tolist()]} if outline else {})

    return person


def person_in_space(parts):
    def person(random):
        camera, image = joints(parts, random)
        return {"is_valid": 1, "keypoints_cam": camera, "keypoints_img": image, "keypoints_vis": [True] * parts}

    return person


def write_file(path, people, person, image):
    """The file of a set in COCO's form, written in parts, as it is too large to hold as objects."""
    random = np.random.default_rng(0)
    unlike = [
        json.dumps({"bbox": random.uniform(10, 500, 4).round(2).tolist(), **person(random)}) for _ in range(UNLIKE)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    size = {"width": 2048, "height": 2048}
    with open(path, "w") as file:
        file.write('{"images": [')
        for number in range(people // 2):
            entry = json.dumps({"id": number, "file_name": f"TS1/{number:012}.jpg", **size, **image})
            file.write((", " if number else "") + entry)
        file.write('], "annotations": [')
        for number in range(people):
            head = f'{{"id": {number}, "image_id": {number // 2}, '
            file.write((", " if number else "") + head + unlike[number % UNLIKE][1:])
        file.write("]}")


def write_human36m(root, people):
    """One subject's three files: four cameras see each pose."""
    random = np.random.default_rng(0)
    folder, poses = root / "annotations", people // 4
    folder.mkdir(parents=True)
    camera = {"R": np.eye(3).tolist(), "t": [0, 0, 4000], "f": FOCAL, "c": CENTRE}
    frames = {str(n): random.uniform(-800, 800, (17, 3)).round(4).tolist() for n in range(poses)}
    views = [(frame, view) for frame in range(poses) for view in range(1, 5)]
    images = [
        {
            "id": n, "file_name": f"s_01_act_02_subact_01_ca_{view:02}/s_01_act_02_subact_01_ca_{view:02}_{frame:06}.jpg",
            "width": 2048, "height": 2048, "subject": 1, "action_name": "Directions", "action_idx": 2,
            "subaction_idx": 1, "cam_idx": view, "frame_idx": frame,
        }
        for n, (frame, view) in enumerate(views)
    ]  # fmt: skip
    boxes = random.uniform(10, 500, (len(views), 4)).round(2).tolist()
    people = [{"id": n, "image_id": n, "keypoints_vis": [True] * 17, "bbox": box} for n, box in enumerate(boxes)]
    contents = {
        "data": {"images": images, "annotations": people},
        "camera": {str(view): camera for view in range(1, 5)},
        "joint_3d": {"2": {"1": frames}},
    }
    for kind, content in contents.items():
        (folder / f"Human36M_subject1_{kind}.json").write_text(json.dumps(content))


INTRINSIC = {"f": FOCAL, "c": CENTRE, "intrinsic": [*FOCAL, *CENTRE]}
FILES = {
    "mpii": (mpii.ANNOTATIONS, flat_person(len(MPII.parts), False), {}, mpii.read_mpii),
    "coco": ("annotations/person_keypoints_train2017.json", flat_person(coco.ON_DISK, True), {}, coco.read_coco),
    "muco": (muco.ANNOTATIONS, person_in_space(len(MUCO.parts)), INTRINSIC, muco.read_muco),
    "mupots": (mupots.ANNOTATIONS, person_in_space(len(MUPOTS.parts)), INTRINSIC, mupots.read_mupots),
}


def read_human36m(root):
    return human36m.read_human36m(root, [1])


def measure(read, root, results):
    def memory():
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(status["VmHWM"].split()[0]) / 1024

    before, start = memory(), time.perf_counter()
    frames = read(root)
    seconds = time.perf_counter() - start
    kept = sum(value.nbytes for value in vars(frames).values() if isinstance(value, np.ndarray)) / 2**20
    results.put((len(frames), seconds, kept, memory() - before))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=1_000_000)
    parser.add_argument("--only", choices=["human36m", *FILES])
    parser.add_argument("--device", choices=["cpu"], default="cpu")
    arguments = parser.parse_args()
    print(f"{'set':<10}{'people':>10}{'file':>10}{'read':>10}{'kept':>10}{'peak':>10}")
    for name in [arguments.only] if arguments.only else ["human36m", *FILES]:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            if name == "human36m":
                write_human36m(root, arguments.people)
                read = read_human36m
            else:
                file, person, image, read = FILES[name]
                write_file(root / file, arguments.people, person, image)
            size = sum(path.stat().st_size for path in root.rglob("*.json")) / 2**20
            context = multiprocessing.get_context("spawn")
            results = context.Queue()
            process = context.Process(target=measure, args=(read, root, results))
            process.start()
            people, seconds, kept, peak = results.get()
            process.join()
        print(f"{name:<10}{people:>10,}{size:>7.0f} MB{seconds:>8.1f} s{kept:>7.0f} MB{peak:>7.0f} MB", flush=True)


if __name__ == "__main__":
    main()
