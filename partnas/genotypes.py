"""Genotypes that ship with the package."""

from pathlib import Path

from partnas.genotype import Genotype

REFERENCE_RUN = Path(__file__).parent / "reference"
"""The run that found ``REFERENCE``: its configuration, metrics and genotype, and ``CARD.md``, which says what it is."""

REFERENCE = Genotype.load(REFERENCE_RUN / "genotype.json")
"""Cells that a search of this program found on the embedded sample, at reduced scale. They are not the paper's, which
were never published as numbers."""
