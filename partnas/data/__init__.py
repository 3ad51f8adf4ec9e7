"""Data sets, crops and augmentation."""

from partnas.data.augmentation import Augmentation, mirror_coordinates
from partnas.data.check import check
from partnas.data.crop import camera_to_voxels, crop_image, expand_box, voxels_to_camera
from partnas.data.dataset import PoseDataset, embedded_root, mean_pose
from partnas.data.human36m import SPLITS, Human36M
from partnas.data.images import normalise, read_image
from partnas.data.people import read_boxes, read_camera
from partnas.data.sampler import EpochSampler

__all__ = [
    "SPLITS",
    "Augmentation",
    "EpochSampler",
    "Human36M",
    "PoseDataset",
    "camera_to_voxels",
    "check",
    "crop_image",
    "embedded_root",
    "expand_box",
    "mean_pose",
    "mirror_coordinates",
    "normalise",
    "read_boxes",
    "read_camera",
    "read_image",
    "voxels_to_camera",
]
