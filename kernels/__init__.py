"""Triton implementations of the operators, one file per operator, imported as ``partnas.kernels``."""
