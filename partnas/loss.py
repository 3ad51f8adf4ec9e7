"""The training losses: L1 on the expected coordinates."""

import torch


def pose_loss(
    predicted: torch.Tensor, target: torch.Tensor, visible: torch.Tensor, has_depth: torch.Tensor
) -> torch.Tensor:
    """Mean over images and parts of ``(|dx| + |dy| + |dz| * has_depth) * visible / 3``, in voxels.

    The paper supervises the soft-argmax coordinates with an L1 loss (section 3.2); this is the form that the public
    integral-regression code gives it. Parts that are not visible count as zero and stay in the mean.

    Args:
        predicted: ``(B, P, 3)`` voxel coordinates (x, y, z).
        target: ``(B, P, 3)`` voxel coordinates.
        visible: ``(B, P)``, 1 where the part lies inside the crop and the depth range.
        has_depth: ``(B,)``, 1 where the image comes with 3D annotation.

    Returns:
        A scalar of ``predicted``'s dtype.
    """
    distance = (predicted - target).abs()  # [B, P, 3]
    depth_weight = has_depth.to(distance)[:, None]  # [B, 1]
    per_part = (distance[..., 0] + distance[..., 1] + distance[..., 2] * depth_weight) / 3
    return (per_part * visible.to(distance)).mean()


def root_loss(
    predicted: torch.Tensor, target: torch.Tensor, k: torch.Tensor, visible: torch.Tensor, has_depth: torch.Tensor
) -> torch.Tensor:
    """Mean over people of ``(|dx| + |dy| + |gamma * k - Z| * has_depth) * visible / 3``, RootNet's (Moon et al. 2019).

    x and y are in voxels and the depth is in millimetres, so that the depth has nearly all of the weight, as there.

    Args:
        predicted: ``(B, 3)``, x and y in voxels, and gamma.
        target: ``(B, 3)``, x and y in voxels, and the root's depth Z in millimetres, finite.
        k: ``(B,)`` millimetres, of the boxes that the network saw.
        visible: ``(B,)``, 1 where the root lies inside the crop.
        has_depth: ``(B,)``, 1 where the depth is known.

    Returns:
        A scalar of ``predicted``'s dtype.
    """
    dx, dy = (predicted[:, :2] - target[:, :2]).abs().unbind(1)
    dz = (predicted[:, 2] * k - target[:, 2]).abs() * has_depth
    return ((dx + dy + dz) * visible / 3).mean()


def loss_of(network: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The loss of a batch, whose tensors are those of a ``PoseDataset``, stacked."""
    return pose_loss(network(batch["image"]), batch["coordinates"], batch["visible"], batch["has_depth"])
