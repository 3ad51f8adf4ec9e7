import json
import os

import pytest
import torch

from partnas.errors import PartnasError
from partnas.run import Run, differing_fields, load_checkpoint, load_weights, write_atomically
from partnas.space import SearchSpace

SPEC = {"kind": "x", "space": SearchSpace(cells=12).to_dict()}


def saved_run(tmp_path):
    run = Run(tmp_path / "run", "search")
    run.open({"seed": 0}, step=0)
    run.save({"network": SPEC, "weights": {"w": torch.ones(2)}, "state": {}, "step": 3})
    return run


def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(temporary):
        temporary.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_with_a_run_is_refused_without_resume(tmp_path):
    saved_run(tmp_path)
    with pytest.raises(PartnasError, match="--resume"):
        Run(tmp_path / "run", "search")


def test_resume_needs_a_checkpoint(tmp_path):
    with pytest.raises(PartnasError, match="nothing to resume"):
        Run(tmp_path / "run", "search", resume=True)
    assert not (tmp_path / "run").exists()


def test_checkpoint_round_trip(tmp_path):
    record = saved_run(tmp_path).load(SPEC)
    assert record["step"] == 3
    assert torch.equal(record["weights"]["w"], torch.ones(2))


def test_checkpoint_of_another_network_names_the_field(tmp_path):
    with pytest.raises(PartnasError, match=r"space\.cells"):
        saved_run(tmp_path).load({"kind": "x", "space": {"cells": 20}})


def test_checkpoint_of_another_job(tmp_path):
    run = saved_run(tmp_path)
    run.job = "train"
    with pytest.raises(PartnasError, match="job is 'search'"):
        run.load(SPEC)


@pytest.mark.parametrize("keep", [0, 10, 300])
def test_truncated_checkpoint(tmp_path, keep):
    path = saved_run(tmp_path).checkpoint_path
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(PartnasError, match=r"checkpoint\.pt: broken or truncated") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_a_pickled_object_is_refused(tmp_path):
    class Payload:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    torch.save({"format": "partnas.checkpoint", "weights": Payload()}, tmp_path / "bad.pt")
    with pytest.raises(PartnasError):
        load_checkpoint(tmp_path / "bad.pt")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("field", ["network", "weights", "job"])
def test_missing_field(tmp_path, field):
    path = saved_run(tmp_path).checkpoint_path
    record = torch.load(path, weights_only=True)
    del record[field]
    torch.save(record, path)
    with pytest.raises(PartnasError, match=f"'{field}' is missing"):
        load_checkpoint(path)


def test_weights_of_another_shape(tmp_path):
    network = torch.nn.Linear(2, 3)
    record = {"weights": {"weight": torch.zeros(4, 2), "bias": torch.zeros(3)}}
    with pytest.raises(PartnasError, match=r"\(4, 2\).*\(3, 2\).*another network"):
        load_weights(network, record, tmp_path)


def test_metrics_after_the_checkpoint_are_forgotten(tmp_path):
    run = Run(tmp_path / "run", "search")
    run.open({}, step=0)
    for step in (1, 2, 3):
        run.log({"step": step, "epoch": 1, "loss": 0.5})
    run.close()
    with open(run.metrics_path, "a") as file:
        file.write('{"half a li')
    run.open({}, step=2)
    rows = [json.loads(line) for line in run.metrics_path.read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    assert rows[0]["job"] == "search"


def test_a_checkpoint_from_before_a_field_of_the_space_goes_on(tmp_path):
    spec = {"kind": "supernet", "space": SearchSpace(cells=12).to_dict()}
    old = {"kind": "supernet", "space": {name: value for name, value in spec["space"].items() if name != "skeleton"}}
    run = Run(tmp_path / "run", "search")
    run.open({}, step=0)
    run.save({"network": old, "weights": {}})
    run.load(spec)
    with pytest.raises(PartnasError, match=r"in space\.parts, space\.skeleton;"):
        run.load({"kind": "supernet", "space": SearchSpace(cells=12, skeleton="muco").to_dict()})


def test_differing_fields():
    assert sorted(differing_fields({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": 0})) == ["a.c", "d"]
