"""Operators: one file each, with the public face, the reference in plain PyTorch, autograd and the FLOP count."""

from partnas.ops.backend import use_backend

__all__ = ["use_backend"]
