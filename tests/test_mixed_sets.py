"""Jobs over several small sets at once."""

import json

import numpy as np
import pytest
import torch
from jobs import GENOTYPE, TINY, TINY_SETTINGS
from small_set import write_set
from small_sets import write_mpii, write_release

from partnas import datasets
from partnas.config import load_config, merge, parse_data
from partnas.distributed import World
from partnas.errors import PartnasError
from partnas.evaluate import evaluate
from partnas.genotype import Genotype
from partnas.loop import Batches, run_job
from partnas.networks import load_network
from partnas.run import Run, load_checkpoint
from partnas.search import Search
from partnas.skeleton import HUMAN36M, MUCO
from partnas.train import Training

WORLD = World(0, 1, torch.device("cpu"))
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return write_release(tmp_path_factory.mktemp("release"))


def config_of(*data, job="train", **settings):
    source = {**parse_data(list(map(str, data))), "train_stride": 1, "test_stride": 1, "monitor_frames": 2}
    tiny = merge(TINY_SETTINGS, {"network": {"channels": 2}, "checkpoint_every": 3, "augmentation": {}})
    return load_config(job, "mini", None, merge(tiny, {"data": source, **settings}))


def run(config, out, resume=False):
    job = Training(config, Genotype.from_dict(GENOTYPE), WORLD)
    run_job(job, Run(out, "train", resume), config, WORLD, resume, progress=False)
    return job


def weights(out):
    return load_checkpoint(out)["weights"]


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_other_sets_are_mapped_by_name_to_the_first_3d_set(release):
    config = config_of(f"mpii,human36m,coco,muco={release}")
    dataset = datasets.training_set(config, datasets.TRAIN)
    assert dataset.source.skeleton == HUMAN36M
    assert np.bincount(dataset.has_depth).tolist() == [2 + 3, 15 + 3]
    mpii, _, coco, *_, muco = dataset.source.visible[15:]
    for visible, lacking in (
        (mpii, {"Torso", "Nose", "R_Ankle", "L_Ankle"}),
        (coco, {"Torso", "Neck", "Head"}),
        (muco, {"Torso", "Neck", "Nose"}),
    ):
        assert {part for part, seen in zip(HUMAN36M.parts, visible, strict=True) if not seen} == lacking
    for index in range(len(dataset)):
        sample = dataset[0, index]
        assert torch.isfinite(sample["coordinates"]).all()
        assert sample["has_depth"] == float(dataset.has_depth[index])


def test_half_of_what_is_trained_on_is_3d(release):
    dataset = datasets.training_set(config_of(f"human36m,mpii={release}"), datasets.TRAIN)
    batches = Batches(dataset, 6, 0, WORLD, 0)
    assert batches.batches_per_epoch == 2 * 15 // 6
    assert [batches.next()["has_depth"].sum().item() for _ in range(10)] == [3] * 10


def test_a_mixture_trains_and_resumes_to_the_same_bits(release, tmp_path):
    config = config_of(f"human36m,mpii,coco={release}", epochs=2, steps_per_epoch=3)
    whole = run(config, tmp_path / "whole")
    stopped = config_of(f"human36m,mpii,coco={release}", epochs=1, steps_per_epoch=3)
    run(stopped, tmp_path / "resumed")
    run(config, tmp_path / "resumed", resume=True)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "resumed"))
    assert len(whole.monitor_set) == 1
    assert whole.monitor_set.has_depth.all()
    account = json.loads((tmp_path / "whole" / "data.json").read_text())
    assert account.pop("left_out") == {"mpii: no keypoints": 1, "coco: no keypoints": 1, "coco: crowd": 1}
    assert [line.split(": ")[1] for line in account.pop("skipped")] == ["annotation 105", "annotation 106"]
    assert account == {"sets": "human36m+mpii+coco", "people": 19, "with_depth": 14}


def test_one_named_set_is_the_plain_folder(release, tmp_path):
    plain, named = config_of(release / "Human36M"), config_of(f"human36m={release}")
    run(plain, tmp_path / "plain")
    run(named, tmp_path / "named")
    assert same(weights(tmp_path / "plain"), weights(tmp_path / "named"))


def test_loss_of_depth_is_left_out_for_people_without(release):
    job = Training(config_of(f"human36m,mpii={release}"), Genotype.from_dict(GENOTYPE), WORLD)
    job.begin_at(0)
    batch = job.batches.next()
    job.network.eval()
    flat = batch["has_depth"] == 0
    before = job.loss_of(batch)
    batch["coordinates"][flat, :, 2] += 5
    assert job.loss_of(batch) == before
    batch["coordinates"][~flat, :, 2] += 5
    assert job.loss_of(batch) != before


def test_the_skeleton_of_the_first_3d_set_is_the_networks(release, tmp_path):
    run(config_of(f"muco,coco={release}", epochs=1), tmp_path)
    network = load_network(tmp_path).eval()
    assert network.space.body == MUCO
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 21, 3)
    with pytest.raises(PartnasError, match="predicts the parts of muco, the set annotates those of human36m"):
        evaluate(tmp_path, config_of(f"human36m={release}").data, tmp_path, device="cpu", progress=False)


def test_a_search_mixes_its_training_set_alone(release):
    job = Search(config_of(f"human36m,mpii={release}", job="search", alpha_epoch=1), WORLD)
    assert np.bincount(job.train_set.has_depth).tolist() == [2, 9]
    assert job.validation_set.has_depth.all()
    assert len(job.validation_set) == 6
    job.begin_at(0)
    job.begin_epoch(1)
    assert torch.isfinite(job.step(1))
    with pytest.raises(PartnasError, match=r"MuCo: muco is read for training alone"):
        Search(config_of(f"muco={release}", job="search"), WORLD)


def test_broken_people_stop_the_job_or_are_listed(cli, genotype_file, tmp_path):
    def spoil(content):
        content["annotations"][0]["keypoints"][0] = float("nan")

    write_set(tmp_path / "Human36M", subjects=(1, 5, 6, 7, 8))
    write_mpii(tmp_path / "MPII", change=spoil)
    arguments = ["train", "--out", tmp_path / "run", "--genotype", genotype_file, *TINY, "--set", "epochs=1"]
    arguments += ["--data", tmp_path, "--data", f"mpii={tmp_path}"]
    process = cli(*arguments, code=1)
    assert "train.json: annotation 1: keypoints holds a value that is not finite" in process.stderr
    assert process.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
    cli(*arguments, "--skip-broken")
    account = json.loads((tmp_path / "run" / "data.json").read_text())
    assert (account["people"], account["with_depth"], account["left_out"]) == (15, 14, {"mpii: no keypoints": 1})
    assert len(account["skipped"]) == 1
    assert "annotation 1: keypoints" in account["skipped"][0]


def test_a_search_lists_whom_it_leaves_out_of_its_validation_people(cli, tmp_path):
    def spoil(subject, data, camera, joints):
        if subject == 7:
            data["annotations"][0]["bbox"] = [1, 2]

    write_set(tmp_path / "Human36M", subjects=(1, 5, 6, 7, 8), change=spoil)
    arguments = ["search", "--out", tmp_path / "run", *TINY, "--set", "epochs=1", "--data", tmp_path / "Human36M"]
    cli(*arguments, "--skip-broken")
    account = json.loads((tmp_path / "run" / "data.json").read_text())
    assert account["skipped"] == []
    assert len(account["validation"]["skipped"]) == 1
    assert "subject7_data.json: annotation" in account["validation"]["skipped"][0]


def test_missing_folders_are_told_with_the_names_there_are(release):
    for data in (release / "none", f"mpi={release}"):
        with pytest.raises(PartnasError, match=r"no such folder; .* human36m, mpii, coco, muco"):
            datasets.training_set(config_of(data), datasets.TRAIN)
