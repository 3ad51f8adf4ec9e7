"""A derived network's arithmetic by ``torch.nn.functional``, on the weights of the product's own layers: what the tests
hold the networks to, and what the benchmarks race."""

from pathlib import Path

import torch
import torch.nn.functional as F

from partnas.genotype import Genotype


def plain_norm(norm, x):
    mean, var = norm.running_mean.clone(), norm.running_var.clone()
    return F.batch_norm(x, mean, var, norm.weight, norm.bias, norm.training)


def plain_block(depthwise, conv, norm, x):
    """ReLU, depthwise, pointwise, batch norm, by torch.nn.functional."""
    weight = depthwise.weight[:, None]
    padding = depthwise.dilation * (weight.shape[-1] // 2)
    x = F.conv2d(F.relu(x), weight, None, depthwise.stride, padding, depthwise.dilation, groups=len(weight))
    return plain_norm(norm, F.conv2d(x, conv.weight))


def plain_operation(name, layer, x, stride):
    if name.startswith("sep"):
        x = plain_block(layer.depthwise, layer.pointwise, layer.norm_between, x)
        return plain_block(layer.depthwise_second, layer.pointwise_second, layer.norm, x)
    if name.startswith("dil"):
        assert layer.depthwise.dilation == 2
        return plain_block(layer.depthwise, layer.pointwise, layer.norm, x)
    if name == "max_pool_3x3":
        return F.max_pool2d(x, 3, stride, 1)
    if name == "avg_pool_3x3":
        return F.avg_pool2d(x, 3, stride, 1, count_include_pad=False)
    if stride == 1:
        return x
    padded = F.pad(F.relu(x), (0, 1, 0, 1))
    halves = [
        F.conv2d(padded[:, :, :-1, :-1], layer.even.weight, stride=2),
        F.conv2d(padded[:, :, 1:, 1:], layer.odd.weight, stride=2),
    ]
    return plain_norm(layer.norm, torch.cat(halves, 1))


def plain_input(layer, factor, x):
    if factor < 1:
        return plain_operation("skip_connect", layer, x, 2)
    convolved = layer if factor == 1 else layer[0]
    x = plain_norm(convolved.norm, F.conv2d(F.relu(x), convolved.pointwise.weight))
    return x if factor == 1 else F.interpolate(x, scale_factor=int(factor), mode="bilinear", align_corners=False)


def plain_cell(cell, layout, nodes, older, newer):
    """A cell of a derived network: ``nodes`` are those of the genotype."""
    states = [
        plain_input(layer, factor, x)
        for layer, factor, x in zip(cell.preprocess, layout.input_factors, (older, newer), strict=True)
    ]
    for layers, edges in zip(cell.nodes, nodes, strict=True):
        total = 0
        for layer, (name, source) in zip(layers, edges, strict=True):
            stride = 2 if layout.kind == "reduction" and source < 2 else 1
            total = total + plain_operation(name, layer, states[source], stride)
        states.append(total)
    return torch.cat(states[2:], 1)


def plain_cells(network, layouts, x):
    """The outputs of all cells of a network that has a stem."""
    conv, norm = network.stem
    outputs = [plain_norm(norm, F.conv2d(x, conv.weight, padding=1))] * 2
    for cell, layout in zip(network.cells, layouts, strict=True):
        outputs.append(plain_cell(cell, layout, getattr(network.genotype, layout.kind), *outputs[-2:]))
    return outputs[2:]


def plain_soft_argmax(volume):
    """``(B, D, H, W)`` logits to the expected x, y, z, ``(B, 3)``."""
    likelihood = torch.softmax(volume.flatten(1), 1).view(volume.shape)
    z, y, x = torch.meshgrid(*(torch.arange(side, device=volume.device) for side in volume.shape[1:]), indexing="ij")
    return torch.stack([(likelihood * axis).sum((1, 2, 3)) for axis in (x, y, z)], 1)


def loaded_genotype(path):
    """A genotype from its file, or from the folder of the search that found it."""
    path = Path(path)
    return Genotype.load(path / "genotype.json" if path.is_dir() else path)
