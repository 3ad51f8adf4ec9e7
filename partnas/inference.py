"""Running a network over a data set: voxel coordinates, then camera millimetres."""

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from partnas.data import PoseDataset, mirror_coordinates
from partnas.metrics import mpjpe


@torch.inference_mode()
def predict_voxels(network: torch.nn.Module, images: torch.Tensor, flip_test: bool, heatmap_size: int) -> torch.Tensor:
    """Voxel coordinates ``(B, P, 3)`` of a batch ``(B, 3, S, S)``; with ``flip_test`` the mean with the mirrored image's."""
    images = images.contiguous(memory_format=torch.channels_last)
    predicted = network(images)
    if not flip_test:
        return predicted
    mirrored = network(images.flip(3).contiguous(memory_format=torch.channels_last))
    return (predicted + mirror_coordinates(mirrored, heatmap_size, network.space.body)) / 2


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
    was_training = network.training
    network.eval()
    found = []
    loader = DataLoader(dataset, batch_size, num_workers=workers)
    for batch in tqdm(loader, desc=progress, unit="batch", disable=None if progress else True):
        voxels = predict_voxels(network, batch["image"].to(device), flip_test, dataset.heatmap_size)
        found.append(voxels.float().cpu().numpy())
    network.train(was_training)
    return dataset.to_camera(np.concatenate(found))


def mpjpe_of(network: torch.nn.Module, dataset: PoseDataset, batch_size: int, device: torch.device) -> float:
    """MPJPE in millimetres of a network over a set."""
    predicted = predict_set(network, dataset, batch_size, device)
    return mpjpe(predicted, dataset.source.joints_camera, dataset.source.skeleton)
