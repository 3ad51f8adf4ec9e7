"""Training on several sets at once: 3D and 2D annotation in equal shares (section 4.1 of the paper, after Moon et al.)."""

from collections.abc import Sequence

import numpy as np

from partnas.data.frames import Frames, concatenated
from partnas.skeleton import Skeleton


def mixed(sets: Sequence[Frames], skeleton: Skeleton) -> Frames:
    """The people of all sets with the parts of ``skeleton``, by name; a part that a set lacks is invisible there.

    Raises:
        PartnasError: There is no set.
    """
    return concatenated([source.mapped_to(skeleton) for source in sets])


def epoch_length(has_depth: np.ndarray) -> int:
    """People of an epoch: each once, or where only some have depth, twice the larger of the two groups."""
    with_depth = int(np.count_nonzero(has_depth))
    without = len(has_depth) - with_depth
    return 2 * max(with_depth, without) if with_depth and without else len(has_depth)


def epoch_order(has_depth: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Who is seen in an epoch, in which order.

    Where only some people have depth, the smaller group is gone through as often as the larger one needs, each time in
    another order, so that each half of the epoch, and of every even number of people from its beginning, is 3D.

    Args:
        has_depth: ``(N,)`` bool.
        seed: Of the order.
        epoch: Chooses the order.

    Returns:
        ``(M, 2)`` int64 of M = :func:`epoch_length`: the number of the pass over the person's group, for the
        augmentation's randomness, and the person's index. Where all people are of one kind a pass is an epoch.
    """
    random = np.random.default_rng([seed, epoch])
    groups = [group for group in (np.flatnonzero(has_depth), np.flatnonzero(~has_depth)) if len(group)]
    length = max(map(len, groups))
    columns = [_passes(group, length, epoch, random) for group in groups]
    pairs = np.stack(columns, axis=1)  # [M / groups, groups, 2]
    if len(groups) == 2:
        swapped = random.random(length) < 0.5
        pairs[swapped] = pairs[swapped, ::-1]
    return pairs.reshape(-1, 2)


def _passes(group: np.ndarray, length: int, epoch: int, random: np.random.Generator) -> np.ndarray:
    """``(length, 2)``: as many passes over a group as fill ``length``, numbered on from those of earlier epochs."""
    count = -(-length // len(group))
    people = np.concatenate([group[random.permutation(len(group))] for _ in range(count)])
    numbers = epoch * count + np.repeat(np.arange(count), len(group))
    return np.column_stack([numbers, people])[:length]
