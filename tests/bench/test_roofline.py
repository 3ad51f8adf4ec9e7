import pytest
import torch
from roofline import (
    DOCUMENT,
    MARKS,
    MODELS,
    SEARCH_TITLE,
    Trace,
    Work,
    covered,
    search_step,
    without_memory,
    work_table,
)

from partnas.config import load_config
from partnas.space import SearchSpace

SPACE = SearchSpace(cells=8, reductions=4, fusions=2, channels=4, input_size=32, depth=4)


def ratios(table):
    """What is issued over the floor, by operator, of a table in Markdown."""
    heads, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines())
    return {row[0]: row[heads.index("ratio")] for row in rows if row[heads.index("ratio")]}


def test_the_document_has_the_ratios_of_the_search_step():
    with without_memory():
        space = load_config("search", "search").space()
        steps = [search_step(space, 40, which) for which in ("weights", "alphas")]
    text = DOCUMENT.read_text(encoding="utf-8")
    text = text[text.index(MARKS[0]) : text.index(MARKS[1])]
    written = text[text.index(SEARCH_TITLE) + len(SEARCH_TITLE) :].lstrip("\n").split("\n\n")[0]
    found = ratios(work_table(steps))
    assert len(found) >= 12
    assert ratios(written) == found


def test_every_operator_of_a_step_has_a_model_and_moves_what_it_must():
    with without_memory():
        trace = search_step(SPACE, 2, "weights")
    assert {"depthwise_bank", "depthwise_bank_backward", "norm_sum", "pool_pair", "products"} <= set(trace.work)
    for name, work in trace.work.items():
        assert work.issued >= work.least > 0, name
        assert work.launches >= trace.calls[name] > 0, name


def test_peak_is_what_lives_at_once():
    with without_memory(), Trace() as trace:
        kept = torch.empty(1 << 20)
        for _ in range(3):
            kept + 1
    assert trace.peak == 2 * 4 << 20


@pytest.mark.parametrize(
    ("extent", "tile", "stride", "border", "limit", "pixels"),
    [(8, 8, 1, 2, 8, 8), (8, 4, 1, 2, 8, 12), (4, 2, 2, 1, 8, 9), (5, 4, 1, 1, 5, 7)],
)
def test_pixels_that_tiles_read(extent, tile, stride, border, limit, pixels):
    assert covered(extent, tile, stride, border, border, limit) == pixels


def work_of(name, *arguments):
    return MODELS[name](arguments, getattr(torch.ops.partnas, name)(*arguments))


def test_a_bank_whose_tiles_cover_the_map_moves_the_least():
    with without_memory():
        x = torch.empty(4096, 16, 8, 8)
        weights = [torch.empty(16, 3, 3), torch.empty(16, 5, 5)]
        work = work_of("depthwise_bank", x, weights, [1, 2], 1, None, None, None, 1e-5, True)
    numbers = 4096 * 16 * 64
    assert work == Work(4 * (3 * numbers + 16 * 34), 4 * (3 * numbers + 16 * 34), 2 * numbers * 34, 1)


def test_two_launches_read_a_source_twice():
    with without_memory():
        x = torch.empty(4096, 16, 8, 8)
        weights = [torch.empty(16, 3, 3)] * 9
        work = work_of("depthwise_bank", x, weights, [1] * 9, 1, None, None, None, 1e-5, True)
    assert work.launches == 2
    assert work.issued - work.least == 4 * x.numel()
