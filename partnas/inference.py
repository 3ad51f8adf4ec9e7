"""Running a network over a data set: voxel coordinates, then camera millimetres."""

from collections.abc import Callable

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from partnas.data import PoseDataset, RootDataset, collate, mirror_coordinates
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
def predict_roots(network: torch.nn.Module, images: torch.Tensor, flip_test: bool) -> torch.Tensor:
    """A root network's x and y in voxels and gamma ``(B, 3)`` of a batch ``(B, 3, S, S)``; with ``flip_test`` the mean
    with the mirrored image's, whose x is mirrored back."""
    images = images.contiguous(memory_format=torch.channels_last)
    predicted = network(images)
    if not flip_test:
        return predicted
    x, y, gamma = network(images.flip(3).contiguous(memory_format=torch.channels_last)).unbind(1)
    return (predicted + torch.stack([network.heatmap_size - x, y, gamma], 1)) / 2


def predict_set(
    network: torch.nn.Module,
    dataset: PoseDataset,
    batch_size: int,
    device: torch.device,
    flip_test: bool = False,
    workers: int = 0,
    progress: str | None = None,
) -> np.ndarray:
    """Camera coordinates ``(N, P, 3)`` in millimetres of every frame of a set, at the root depth that the set states.

    The network is put into evaluation mode and back again.
    """

    def voxels(images: torch.Tensor) -> torch.Tensor:
        return predict_voxels(network, images, flip_test, dataset.heatmap_size)

    return dataset.to_camera(_over_set(network, voxels, dataset, batch_size, device, workers, progress))


def predict_root_set(
    network: torch.nn.Module,
    dataset: RootDataset,
    batch_size: int,
    device: torch.device,
    flip_test: bool = False,
    workers: int = 0,
    progress: str | None = None,
) -> np.ndarray:
    """Camera coordinates ``(N, 3)`` in millimetres of the root of every person of a set.

    The network is put into evaluation mode and back again.
    """

    def roots(images: torch.Tensor) -> torch.Tensor:
        return predict_roots(network, images, flip_test)

    return dataset.to_camera(_over_set(network, roots, dataset, batch_size, device, workers, progress))


def _over_set(
    network: torch.nn.Module,
    predict: Callable[[torch.Tensor], torch.Tensor],
    dataset: PoseDataset,
    batch_size: int,
    device: torch.device,
    workers: int,
    progress: str | None,
) -> np.ndarray:
    """``predict`` of every image of a set, ``network`` being in evaluation mode the while."""
    was_training = network.training
    network.eval()
    found = []
    loader = DataLoader(dataset, batch_size, num_workers=workers, collate_fn=collate)
    for batch in tqdm(loader, desc=progress, unit="batch", disable=None if progress else True):
        found.append(predict(batch["image"].to(device)).float().cpu().numpy())
    network.train(was_training)
    return np.concatenate(found)


def mpjpe_of(network: torch.nn.Module, dataset: PoseDataset, batch_size: int, device: torch.device) -> float:
    """MPJPE in millimetres of a network over a set."""
    predicted = predict_set(network, dataset, batch_size, device)
    return mpjpe(predicted, dataset.source.joints_camera, dataset.source.skeleton)


def mrpe_of(network: torch.nn.Module, dataset: RootDataset, batch_size: int, device: torch.device) -> float:
    """Mean root position error in millimetres of a root network over the people of a set whose depth is known."""
    known = dataset.source.has_depth
    return mrpe(predict_root_set(network, dataset, batch_size, device)[known], dataset.roots()[known])["total"]
