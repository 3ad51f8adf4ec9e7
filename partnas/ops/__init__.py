"""Operators: one file each, with the public face, the reference in plain PyTorch, autograd and the FLOP count."""

from partnas.ops.backend import use_backend
from partnas.ops.channel_shuffle import channel_shuffle
from partnas.ops.counting import fvcore_handles
from partnas.ops.soft_argmax_3d import soft_argmax_3d

__all__ = ["channel_shuffle", "fvcore_handles", "soft_argmax_3d", "use_backend"]
