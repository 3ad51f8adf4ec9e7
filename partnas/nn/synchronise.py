"""Batch-norm statistics over all processes: a batch shared by N ranks is normalised as one process would."""

import torch
import torch.distributed as dist
from torch import nn


class _Sum(torch.autograd.Function):
    """The sum over the ranks; its gradient is the sum of the ranks' gradients."""

    @staticmethod
    def forward(ctx, value: torch.Tensor) -> torch.Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


def mean_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """The differentiable mean of a tensor over the ranks, each of which holds an equal share of the batch."""
    return _Sum.apply(value) / dist.get_world_size()


class SynchronisedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose training statistics are those of the batch over all ranks, on any device and back end.

    PyTorch's own ``SyncBatchNorm`` refuses CPU tensors.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(x)
        mean = mean_over_ranks(x.mean((0, 2, 3)))  # [C]
        centred = x - mean[:, None, None]
        variance = mean_over_ranks((centred * centred).mean((0, 2, 3)))  # [C]
        if self.track_running_stats:
            count = x.numel() // x.shape[1] * dist.get_world_size()
            with torch.no_grad():
                self.num_batches_tracked += 1
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance * (count / max(count - 1, 1)), self.momentum)
        scale = torch.rsqrt(variance + self.eps)
        if self.weight is None:
            return centred * scale[:, None, None]
        return centred * (scale * self.weight)[:, None, None] + self.bias[:, None, None]


def synchronise(network: nn.Module, world_size: int) -> None:
    """Make every batch norm of ``network`` take its training statistics over all ranks; nothing to do for one.

    In evaluation mode a network talks to no other rank.
    """
    if world_size == 1:
        return
    for module in network.modules():
        if hasattr(module, "synchronised"):
            module.synchronised = True
        if type(module) is nn.BatchNorm2d:
            # The object stays, and with it its parameters, their dtype and device, and who holds on to them.
            module.__class__ = SynchronisedBatchNorm2d
