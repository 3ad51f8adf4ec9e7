import pytest

from partnas.data import EpochSampler


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
