"""Rendered people in real motion: ``synthesize`` writes a data set in the Human3.6M layout."""

from partnas.data.synth.synthesize import synthesize

__all__ = ["synthesize"]
