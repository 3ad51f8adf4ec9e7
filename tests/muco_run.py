"""Runs of networks that nothing has trained, of any skeleton."""

from jobs import GENOTYPE

from partnas.networks import build
from partnas.run import Run
from partnas.space import SearchSpace

TINY = SearchSpace(cells=6, reductions=3, fusions=1, fusion_nodes=2, channels=4, input_size=32, depth=8)


def untrained(folder, skeleton, sets=()):
    """The run of a network of that skeleton with fresh weights, which is said to be trained on these sets, if any."""
    network = build({"kind": "partnet", "space": TINY.replace(skeleton=skeleton).to_dict(), "genotype": GENOTYPE})
    run = Run(folder, "train")
    data = {"sets": [{"name": name, "root": "nowhere"} for name in sets]}
    run.open({"data": data} if sets else {}, 0)
    run.save({"network": network.spec(), "weights": network.state_dict()})
    return folder
