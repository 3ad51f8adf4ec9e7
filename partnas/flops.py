"""Parameters and FLOPs of a network, by fvcore. As in the paper, a multiply-add counts as one."""

from typing import Any

import torch
from fvcore.nn import FlopCountAnalysis
from torch import nn

from partnas.nn.primitives import Upsample
from partnas.ops import use_backend
from partnas.tables import published

CONVENTIONS = {
    "exact": "what is computed",
    "paper": "a deconvolution's taps counted at every output position (Table 3)",
    "upsample_first": "a fusion cell's 1x1 convolutions counted after the upsampling",
}


def count(network: nn.Module, input_size: int) -> dict[str, Any]:
    """Count what ``network`` holds and does for one image.

    The operators run on their reference backend for this, so that the figures do not depend on what was built. Counted
    are convolutions, matrix products, batch norms and bilinear upsampling; pooling, sums and softmax are not.

    Args:
        network: Maps ``(B, 3, S, S)`` to poses; put into evaluation mode and back again.
        input_size: S in pixels.

    Returns:
        ``parameters``, and ``flops`` by convention (see ``CONVENTIONS``). The deconvolutions of the ResNet-50 baseline
        make 14.1G of its 8.5G when counted as the paper counts.
    """
    was_training = network.training
    image = next(network.parameters()).new_zeros(1, 3, input_size, input_size)
    analysis = FlopCountAnalysis(network.eval(), image)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    with torch.no_grad(), use_backend("reference"):
        by_module = analysis.by_module()
    network.train(was_training)
    exact = int(by_module[""])
    deconvolutions, upsampled = 0, 0
    for name, module in network.named_modules():
        if isinstance(module, nn.ConvTranspose2d):
            deconvolutions += int(by_module[name]) * (module.stride[0] * module.stride[1] - 1)
        if isinstance(module, nn.Sequential) and len(module) and isinstance(module[-1], Upsample):
            upsampled += int(by_module[f"{name}.0"]) * (module[-1].factor ** 2 - 1)
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "flops": {"exact": exact, "paper": exact + deconvolutions, "upsample_first": exact + upsampled},
    }


def table(result: dict[str, Any]) -> str:
    """The counts for a person to read."""
    rows = [("parameters", f"{result['parameters'] / 1e6:.1f}M", "")]
    rows += [
        (f"FLOPs, {name}", f"{result['flops'][name] / 1e9:.1f}G", meaning) for name, meaning in CONVENTIONS.items()
    ]
    return "\n".join(f"{name:<24}{value:>8}   {meaning}".rstrip() for name, value, meaning in rows)


def published_counts(cells: int) -> str | None:
    """A line on what the paper's own cells count at this N_c, if its Table 4 has it."""
    for row in published(4).rows:
        if row.name == f"Ours, N_c = {cells}":
            return f"the paper's own cells    {row.values['parameters']:.1f}M parameters, {row.values['flops']:.1f}G FLOPs (Table 4)"
    return None
