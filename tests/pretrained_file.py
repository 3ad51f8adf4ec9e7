"""Weights of a ResNet under torchvision's names."""

import torch


def random_resnet(width=64, blocks=(3, 4, 6, 3), classes=10):
    """Every tensor of a ResNet of bottlenecks, as torchvision's ``state_dict`` names and shapes them."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}

    def convolution(name, channels_out, channels_in, size):
        scale = (2 / (channels_in * size * size)) ** 0.5
        tensors[f"{name}.weight"] = scale * torch.randn(channels_out, channels_in, size, size, generator=generator)

    def norm(name, channels):
        for tensor in ("weight", "running_var"):
            tensors[f"{name}.{tensor}"] = 0.5 + torch.rand(channels, generator=generator)
        for tensor in ("bias", "running_mean"):
            tensors[f"{name}.{tensor}"] = torch.randn(channels, generator=generator)
        tensors[f"{name}.num_batches_tracked"] = torch.tensor(7)

    convolution("conv1", width, 3, 7)
    norm("bn1", width)
    before = width
    for stage, count in enumerate(blocks):
        inner = width * 2**stage
        for block in range(count):
            name = f"layer{stage + 1}.{block}"
            for place, (channels_out, channels_in, size) in enumerate(
                [(inner, before, 1), (inner, inner, 3), (4 * inner, inner, 1)], start=1
            ):
                convolution(f"{name}.conv{place}", channels_out, channels_in, size)
                norm(f"{name}.bn{place}", channels_out)
            if block == 0:
                convolution(f"{name}.downsample.0", 4 * inner, before, 1)
                norm(f"{name}.downsample.1", 4 * inner)
            before = 4 * inner
    tensors["fc.weight"] = torch.randn(classes, before, generator=generator)
    tensors["fc.bias"] = torch.randn(classes, generator=generator)
    return tensors
