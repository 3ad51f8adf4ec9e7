"""The paper's ablations (Tables 1 to 4) and the questions of ``science``, each a set of rows run for several seeds."""

from partnas.experiments.plan import Plan
from partnas.experiments.runner import run_experiment

__all__ = ["Plan", "run_experiment"]
