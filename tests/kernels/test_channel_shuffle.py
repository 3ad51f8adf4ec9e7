import pytest
import torch
from shuffle_cases import DTYPES, LAYOUTS, check, numbers, permutation

from partnas.ops import channel_shuffle, use_backend
from partnas.ops.channel_shuffle import reference


@pytest.fixture(autouse=True)
def on_triton():
    with use_backend("triton"):
        yield


@pytest.mark.parametrize(
    ("layout", "dtype"),
    [
        *((layout, dtype) for layout in ("contiguous", "channels-last") for dtype in DTYPES),
        *((layout, torch.float32) for layout in list(LAYOUTS)[2:]),
    ],
    ids=str,
)
def test_every_dtype_and_layout(device, dtype, layout):
    for channels, others in [(12, (2, 3, 7)), (36, (1, 4, 3)), (1, (2, 3, 4)), (12, (0, 5, 7)), (0, (2, 3, 4))]:
        x = LAYOUTS[layout](numbers(channels, others, dtype))
        for depth in (1, 3):
            if channels % depth == 0:
                check(x, order=permutation(channels // depth), depth=depth, device=device)
                if channels // depth % 4 == 0:
                    check(x, 4, depth=depth, device=device)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_several_tiles_and_long_orders(device, memory_format):
    for channels, others, depth in [
        (300, (1, 5, 11), 1),
        (32, (2, 33, 37), 8),
        (400, (1, 3, 2), 40),
        (2, (1, 70, 97), 1),
    ]:
        x = numbers(channels, others, torch.int16).contiguous(memory_format=memory_format)
        check(x, order=permutation(channels // depth), depth=depth, device=device)
        check(x, 2, depth=depth, device=device)


def test_unaligned_memory(device):
    x = numbers(24, (2, 3, 5), torch.uint8).contiguous(memory_format=torch.channels_last)
    storage = torch.empty(x.numel() + 3, dtype=torch.uint8)
    check(torch.as_strided(storage, x.shape, x.stride(), 3).copy_(x), order=permutation(24), device=device)


def test_complex_conjugates_are_resolved(device):
    x = numbers(12, (2, 5, 7), torch.complex64).nan_to_num().to(device)
    assert torch.equal(channel_shuffle(x.conj(), 3), channel_shuffle(x, 3).conj().resolve_conj())


@pytest.mark.parametrize("layout", ["contiguous", "channels-last", "cut out"])
def test_gradients(device, layout):
    for arguments in ({"groups": 3}, {"order": permutation(6), "depth": 2}, {"order": permutation(12)}):
        x = LAYOUTS[layout](torch.randn(2, 12, 3, 5)).to(device).detach().requires_grad_()
        given = torch.randn(x.shape).to(device)
        (found,) = torch.autograd.grad(channel_shuffle(x, **arguments), x, given)
        (expected,) = torch.autograd.grad(reference(x, **arguments), x, given)
        assert torch.equal(found, expected)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_opcheck(device, memory_format):
    x = torch.randn(1, 6, 2, 3).contiguous(memory_format=memory_format).to(device)
    channel_shuffle(x, 3)
    torch.library.opcheck(torch.ops.partnas_triton.channel_shuffle, (x.clone().requires_grad_(), 3, [], 1))
    torch.library.opcheck(torch.ops.partnas_triton.channel_shuffle, (x.requires_grad_(), 0, [2, 0, 1], 2))
