"""Data sets, crops and augmentation."""

from partnas.data.augmentation import Augmentation, mirror_coordinates
from partnas.data.check import check
from partnas.data.coco import read_coco
from partnas.data.crop import camera_to_voxels, crop_image, expand_box, voxels_to_camera
from partnas.data.dataset import PoseDataset, batches_of, collate, embedded_root, mean_pose
from partnas.data.frames import Frames, concatenated
from partnas.data.human36m import SPLITS, read_human36m
from partnas.data.images import normalise, read_image
from partnas.data.mixing import epoch_length, mixed
from partnas.data.mpii import read_mpii
from partnas.data.muco import read_muco
from partnas.data.mupots import read_mupots
from partnas.data.people import read_boxes, read_camera
from partnas.data.root_dataset import RootDataset, k_values, roots_to_camera
from partnas.data.sampler import EpochSampler

__all__ = [
    "SPLITS",
    "Augmentation",
    "EpochSampler",
    "Frames",
    "PoseDataset",
    "RootDataset",
    "batches_of",
    "camera_to_voxels",
    "check",
    "collate",
    "concatenated",
    "crop_image",
    "embedded_root",
    "epoch_length",
    "expand_box",
    "k_values",
    "mean_pose",
    "mirror_coordinates",
    "mixed",
    "normalise",
    "read_boxes",
    "read_camera",
    "read_coco",
    "read_human36m",
    "read_image",
    "read_mpii",
    "read_muco",
    "read_mupots",
    "roots_to_camera",
    "voxels_to_camera",
]
