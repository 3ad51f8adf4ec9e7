"""Networks: primitives, cells, the supernet, the derived network and the baselines."""

from partnas.nn.deconv_net import BackboneSupernet, DeconvNet, PoseResNet50
from partnas.nn.part_net import PartNet
from partnas.nn.root_net import RootNet
from partnas.nn.supernet import Supernet

__all__ = ["BackboneSupernet", "DeconvNet", "PartNet", "PoseResNet50", "RootNet", "Supernet"]
