"""Lists of small numbers as kernel arguments: they reach the GPU with the launch, where a copy from the host would wait for
it and could not be captured in a CUDA graph."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from partnas.errors import PartnasError
from partnas.kernels.launch import Ahead, Config, launch

IN_A_WORD, BITS = 3, 20
WORDS = 64
TABLE = {75: Config({}, 1, 1)}


def packed(numbers: Sequence[int]) -> tuple[int, ...]:
    """The numbers, below 2^20, by threes. The highest and the lowest bit of a word are set, so that values do not tell one
    kernel from another."""
    if max(numbers, default=0) >= 1 << BITS:
        raise PartnasError(
            f"Triton kernels: {max(numbers)} parts or channels are more than 2^20, which they can number"
        )
    words = []
    for begin in range(0, len(numbers), IN_A_WORD):
        word = sum(n << (BITS * i) for i, n in enumerate(numbers[begin : begin + IN_A_WORD]))
        words.append(1 << 62 | word << 1 | 1)
    return tuple(words)


@triton.jit
def unpacked(words, index):
    """The numbers at ``index``, a number or a block of them, as IN_A_WORD and BITS have it."""
    word = words[0] + index * 0
    for i in tl.static_range(1, len(words)):
        word = tl.where(index // 3 == i, words[i], word)
    return ((word >> (index % 3 * 20 + 1)) & 0xFFFFF).to(tl.int32)


def table_of(numbers: Sequence[int], device: torch.device) -> torch.Tensor:
    """The numbers in the memory of ``device``, int32."""
    table = torch.empty(len(numbers), dtype=torch.int32, device=device)
    size = WORDS * IN_A_WORD
    for first in range(0, len(numbers), size):
        words = packed(numbers[first : first + size])
        words += packed([0]) * (WORDS - len(words))
        launch(_write, lambda _: (1,), TABLE, table, words, first, len(numbers), SIZE=triton.next_power_of_2(size))
    return table


@triton.jit
def _write(table, words, first, end, SIZE: tl.constexpr):
    index = tl.arange(0, SIZE)
    there = (index < 3 * len(words)) & (first + index < end)
    tl.store(table + first + index, unpacked(words, index), there)


AHEAD = [
    Ahead(_write, TABLE, {"table": "*i32", "words": ("i64",) * WORDS, "first": "i32", "end": "i32"}, {"SIZE": 256}),
]
