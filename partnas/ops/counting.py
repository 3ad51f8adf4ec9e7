"""FLOPs of the native operators, for fvcore."""

from collections.abc import Callable

from fvcore.nn.jit_handles import get_shape

from partnas.ops.channel_shuffle import flops as channel_shuffle_flops
from partnas.ops.soft_argmax_3d import flops as soft_argmax_3d_flops


def fvcore_handles() -> dict[str, Callable]:
    """Handles that count the native operators: ``FlopCountAnalysis(...).set_op_handle(**fvcore_handles())``.

    fvcore counts a multiply-add as one, and nothing for softmax and sums: the reference of :func:`soft_argmax_3d`
    counts as (nearly) zero there, the native operator with its own formula.
    """
    return {
        "partnas::soft_argmax_3d": lambda inputs, outputs: soft_argmax_3d_flops(get_shape(inputs[0])),
        "partnas::channel_shuffle": lambda inputs, outputs: channel_shuffle_flops(),
    }
