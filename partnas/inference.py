"""Running a network over a data set: voxel coordinates, then camera millimetres."""

from collections.abc import Callable

import numpy as np
import torch
from tqdm import tqdm

from partnas.data import PoseDataset, RootDataset, batches_of, mirror_coordinates
from partnas.metrics import mpjpe, mrpe


@torch.inference_mode()
def predict_voxels(network: torch.nn.Module, images: torch.Tensor, flip_test: bool, heatmap_size: int) -> torch.Tensor:
    """Voxel coordinates ``(B, P, 3)`` of a batch ``(B, 3, S, S)``; with ``flip_test`` the mean with the mirrored image's."""
    images = images.contiguous(memory_format=torch.channels_last)
    predicted = network(images)
    if not flip_test:
        return predicted
    mirrored = network(images.flip(3).contiguous(memory_format=torch.channels_last))
    return (predicted + mirror_coordinates(mirrored, heatmap_size, network.space.body)) / 2


@torch.inference_mode()
def predict_roots(network: torch.nn.Module, images: torch.Tensor, flip_test: bool, heatmap_size: int) -> torch.Tensor:
    """A root network's x and y in voxels and gamma ``(B, 3)`` of a batch ``(B, 3, S, S)``; with ``flip_test`` the mean
    with the mirrored image's, whose x is mirrored back."""
    images = images.contiguous(memory_format=torch.channels_last)
    predicted = network(images)
    if not flip_test:
        return predicted
    x, y, gamma = network(images.flip(3).contiguous(memory_format=torch.channels_last)).unbind(1)
    return (predicted + torch.stack([heatmap_size - x, y, gamma], 1)) / 2


def predict_set(
    network: torch.nn.Module,
    dataset: PoseDataset,
    batch_size: int,
    device: torch.device,
    flip_test: bool = False,
    workers: int = 0,
    progress: str | None = None,
    predict: Callable[[torch.nn.Module, torch.Tensor, bool, int], torch.Tensor] = predict_voxels,
) -> np.ndarray:
    """Camera coordinates in millimetres of every person of a set.

    They are ``(N, P, 3)``, at the root depth that the set states, or with ``predict_roots`` and a ``RootDataset`` those
    ``(N, 3)`` of the roots. The network is put into evaluation mode and back again.
    """
    was_training = network.training
    network.eval()
    found = []
    batches = batches_of(dataset, batch_size, workers)
    total = -(-len(dataset) // batch_size)
    for batch in tqdm(batches, desc=progress, total=total, unit="batch", disable=None if progress else True):
        predicted = predict(network, batch["image"].to(device), flip_test, dataset.heatmap_size)
        found.append(predicted.float().cpu().numpy())
    network.train(was_training)
    return dataset.to_camera(np.concatenate(found))


def mpjpe_of(network: torch.nn.Module, dataset: PoseDataset, batch_size: int, device: torch.device) -> float:
    """MPJPE in millimetres of a network over a set."""
    predicted = predict_set(network, dataset, batch_size, device)
    return mpjpe(predicted, dataset.source.joints_camera, dataset.source.skeleton)


def mrpe_of(network: torch.nn.Module, dataset: RootDataset, batch_size: int, device: torch.device) -> float:
    """Mean root position error in millimetres of a root network over the people of a set whose depth is known."""
    known = dataset.source.has_depth
    predicted = predict_set(network, dataset, batch_size, device, predict=predict_roots)
    return mrpe(predicted[known], dataset.roots()[known])["total"]
