import numpy as np
import pytest

from partnas.data import EpochSampler, epoch_length
from partnas.data.mixing import epoch_order


def test_an_epoch_is_a_permutation_cut_to_whole_batches():
    pairs = list(EpochSampler(23, 5, seed=1, epoch=4))
    assert {epoch for epoch, _ in pairs} == {4}
    assert len({index for _, index in pairs}) == len(pairs) == 20
    assert [i for _, i in pairs] != sorted(i for _, i in pairs)


def test_seed_and_epoch_change_the_order():
    orders = [tuple(EpochSampler(50, 5, seed=s, epoch=e)) for s, e in ((0, 0), (0, 1), (1, 0))]
    assert len({tuple(i for _, i in order) for order in orders}) == 3


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_each_global_batch(world_size):
    whole = [i for _, i in EpochSampler(40, 6, epoch=2)]
    ranks = [
        [i for _, i in EpochSampler(40, 6 // world_size, epoch=2, rank=r, world_size=world_size)]
        for r in range(world_size)
    ]
    local = 6 // world_size
    for batch in range(len(whole) // 6):
        shared = {i for rank in ranks for i in rank[batch * local : (batch + 1) * local]}
        assert shared == set(whole[batch * 6 : (batch + 1) * 6])


def test_start_leaves_out_whole_batches():
    whole = list(EpochSampler(40, 6, epoch=2))
    assert list(EpochSampler(40, 6, epoch=2, start=2)) == whole[12:]
    assert len(EpochSampler(40, 6, epoch=2, start=2)) == len(whole) - 12


MIXTURE = np.array([True, False, False, True] + [False] * 3)
"""Two people with depth, five without."""


def test_half_of_a_mixed_epoch_is_3d():
    order = epoch_order(MIXTURE, seed=3, epoch=2)
    assert len(order) == epoch_length(MIXTURE) == 10
    with_depth = MIXTURE[order[:, 1]]
    assert with_depth.reshape(-1, 2).sum(1).tolist() == [1] * 5
    assert sorted(order[~with_depth, 1]) == np.flatnonzero(~MIXTURE).tolist()
    times = np.bincount(order[with_depth, 1], minlength=7)[MIXTURE]
    assert sorted(times) == [2, 3]


def test_which_of_a_pair_comes_first_varies():
    first = [MIXTURE[epoch_order(MIXTURE, seed=0, epoch=epoch)[::2, 1]] for epoch in range(20)]
    assert 0.35 < np.mean(first) < 0.65


def test_either_group_may_be_the_smaller():
    order = epoch_order(~MIXTURE, seed=3, epoch=2)
    assert np.count_nonzero(~MIXTURE[order[:, 1]]) == 5


def test_nobody_is_seen_twice_with_one_augmentation():
    pairs = [tuple(pair) for epoch in range(4) for pair in epoch_order(MIXTURE, seed=0, epoch=epoch).tolist()]
    assert len(set(pairs)) == len(pairs)


def test_a_set_of_one_kind_has_the_order_that_it_always_had():
    for has_depth in (np.ones(9, bool), np.zeros(9, bool)):
        order = epoch_order(has_depth, seed=3, epoch=2)
        assert order[:, 1].tolist() == np.random.default_rng([3, 2]).permutation(9).tolist()
        assert set(order[:, 0]) == {2}
        assert epoch_length(has_depth) == 9


def test_ranks_share_each_global_batch_of_a_mixture():
    has_depth = np.arange(40) % 5 > 0
    whole = list(EpochSampler(40, 8, epoch=2, has_depth=has_depth))
    assert len(whole) == 64
    ranks = [list(EpochSampler(40, 4, epoch=2, rank=r, world_size=2, has_depth=has_depth)) for r in (0, 1)]
    assert [pair for pairs in zip(*ranks, strict=True) for pair in pairs] == whole
    for rank in ranks:
        assert 8 < sum(bool(has_depth[index]) for _, index in rank) < 24
    assert list(EpochSampler(40, 8, epoch=2, start=3, has_depth=has_depth)) == whole[24:]
