"""One rank of a check of synchronised batch norm: ``rank_norm.py RANK WORLD_SIZE STORE OUT``.

Runs the networks of :func:`networks` on this rank's share of one batch and saves outputs, averaged gradients and
buffers; with a world size of 1 nothing is synchronised, which is the truth for the others.
"""

import sys

import torch
import torch.distributed as dist
from torch import nn

from partnas.genotype import Genotype
from partnas.nn import PartNet, Supernet
from partnas.nn.synchronise import synchronise
from partnas.space import SearchSpace

BATCH = 4
SPACE = SearchSpace(
    cells=4, reductions=1, fusions=1, nodes=2, fusion_nodes=2, channels=4, parts=3, depth=2, input_size=8,
    fusion_channels=4,
)  # fmt: skip


def networks() -> dict[str, tuple[nn.Module, torch.Tensor]]:
    """Networks of equal weights in every process, with the whole batch for each."""
    torch.manual_seed(0)
    built = {
        "norm": nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)),
        "plain norm": nn.Sequential(nn.BatchNorm2d(3, affine=False, track_running_stats=False), nn.Conv2d(3, 4, 1)),
        "supernet": Supernet(SPACE),
        "partnet": PartNet(Genotype.random(SPACE), SPACE),
    }
    images = torch.randn(BATCH, 3, 8, 8, dtype=torch.float64) + 3 * torch.randn(BATCH, 1, 1, 1, dtype=torch.float64)
    return {name: (network.double(), images) for name, network in built.items()}


def record(network: nn.Module, images: torch.Tensor, rank: int, world_size: int) -> dict[str, torch.Tensor]:
    """What one step and one evaluation of this rank's share give."""
    synchronise(network, world_size)
    share = images.chunk(world_size)[rank].clone().requires_grad_()
    output = network(share)
    (output**3).mean().backward()
    found = {"output": output.detach(), "input gradient": share.grad / world_size}
    for name, parameter in network.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        if world_size > 1:
            dist.all_reduce(gradient)
            gradient /= world_size
        found[f"gradient {name}"] = gradient
    found |= {f"buffer {name}": value.clone() for name, value in network.named_buffers()}
    network.eval()
    if rank == 0:
        # The other ranks take no part: evaluation must not wait for them.
        network.zero_grad()
        output = network(images[:2])
        (output**3).mean().backward()
        found["evaluated"] = output.detach()
    return found


def main() -> None:
    rank, world_size, store, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    torch.set_num_threads(1)
    if world_size > 1:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    found = {name: record(network, images, rank, world_size) for name, (network, images) in networks().items()}
    torch.save(found, out)
    if world_size > 1:
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
