"""Two ranks, each with half of a batch, normalise and learn as one process with the whole batch."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from jobs import environment
from rank_norm import networks, record
from torch import nn

from partnas.nn import Supernet
from partnas.nn.synchronise import SynchronisedBatchNorm2d, synchronise

NAMES = ["norm", "plain norm", "supernet", "partnet"]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What the two ranks recorded."""
    folder = tmp_path_factory.mktemp("ranks")
    outs = [folder / f"{rank}.pt" for rank in (0, 1)]
    processes = [
        subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("rank_norm.py")), str(rank), "2", str(folder / "store"), str(out)],
            env=environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, out in enumerate(outs)
    ]  # fmt: skip
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    return [torch.load(out, weights_only=True) for out in outs]


@pytest.mark.parametrize("name", NAMES)
def test_two_ranks_equal_one_process(ranks, name):
    network, images = networks()[name]
    whole = record(network, images, 0, 1)
    first, second = (rank[name] for rank in ranks)
    for key in ("output", "input gradient"):
        torch.testing.assert_close(torch.cat([first[key], second[key]]), whole[key], rtol=1e-8, atol=1e-9, msg=key)
    rest = [key for key in whole if key.startswith(("gradient", "buffer"))]
    assert len(rest) >= 2
    for key in rest:
        assert torch.equal(first[key], second[key]), key
        torch.testing.assert_close(first[key], whole[key], rtol=1e-8, atol=1e-9, msg=key)


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_needs_no_other_rank(ranks, name):
    network, images = networks()[name]
    whole = record(network, images, 0, 1)
    torch.testing.assert_close(ranks[0][name]["evaluated"], whole["evaluated"], rtol=1e-8, atol=1e-9)


def test_without_synchronisation_the_ranks_would_differ():
    for name, (network, images) in networks().items():
        half = network(images[:2]).detach()
        whole = networks()[name][0](images)[:2].detach()
        assert (half - whole).abs().max() > 1e-3, name


def test_every_batch_norm_is_synchronised_and_stays_what_it_was():
    network, _ = networks()["partnet"]
    network.cells[0].eval()
    parameters = {name: (id(p), p.dtype) for name, p in network.named_parameters()}
    state = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    synchronise(network, 2)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert all(type(norm) is SynchronisedBatchNorm2d or norm.synchronised for norm in norms)
    assert {name: (id(p), p.dtype) for name, p in network.named_parameters()} == parameters
    assert [module.training for module in network.modules()] == modes
    for name, value in network.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_the_cells_of_a_supernet_are_told():
    network, _ = networks()["supernet"]
    synchronise(network, 2)
    told = [module for module in network.modules() if hasattr(module, "synchronised")]
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert norms == 1 + 2 * len(network.cells)
    assert len(told) == norms + sum(1 + len(cell.sources) for cell in network.cells)
    assert all(module.synchronised for module in told)


def test_nothing_changes_for_one_process():
    network, _ = networks()["supernet"]
    assert isinstance(network, Supernet)
    synchronise(network, 1)
    for module in network.modules():
        assert not isinstance(module, SynchronisedBatchNorm2d)
        assert not getattr(module, "synchronised", False)
