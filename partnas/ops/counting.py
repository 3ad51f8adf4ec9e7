"""FLOPs of the native operators, for fvcore."""

from collections.abc import Callable
from math import prod

from partnas.ops.channel_shuffle import flops as channel_shuffle_flops
from partnas.ops.depthwise_bank import flops as depthwise_bank_flops
from partnas.ops.norm_sum import flops as norm_sum_flops
from partnas.ops.pointwise import flops as pointwise_flops
from partnas.ops.soft_argmax_3d import flops as soft_argmax_3d_flops
from partnas.ops.upsample import flops as upsample_flops


def get_shape(value) -> list[int] | None:
    # Here and not above: operators run where fvcore is missing.
    from fvcore.nn.jit_handles import get_shape

    return get_shape(value)


def fvcore_handles() -> dict[str, Callable]:
    """Handles that count the native operators: ``FlopCountAnalysis(...).set_op_handle(**fvcore_handles())``.

    fvcore counts a multiply-add as one, and nothing for softmax and sums: the reference of :func:`soft_argmax_3d`
    counts as (nearly) zero there, the native operator with its own formula. Pools and batch statistics count as
    nothing, and a batch norm as it does in evaluation mode, as fvcore has it for their references.
    """
    return {
        "partnas::soft_argmax_3d": lambda inputs, outputs: soft_argmax_3d_flops(get_shape(inputs[0])),
        "partnas::channel_shuffle": lambda inputs, outputs: channel_shuffle_flops(),
        "partnas::depthwise_bank": _count_depthwise_bank,
        "partnas::pointwise": _count_pointwise,
        "partnas::pack_pointwise": lambda inputs, outputs: 0,
        "partnas::depthwise_pointwise": _count_depthwise_pointwise,
        "partnas::norm_stats": lambda inputs, outputs: 0,
        "partnas::norm_sum": _count_norm_sum,
        "partnas::pool_pair": lambda inputs, outputs: 0,
        "partnas::pool": lambda inputs, outputs: 0,
        "partnas::upsample": lambda inputs, outputs: upsample_flops(
            get_shape(inputs[0]), get_shape(outputs[0])[2] // get_shape(inputs[0])[2]
        ),
    }


def _count_depthwise_bank(inputs, outputs):
    x, weights, _, stride, statistics, scale = inputs[:6]
    sizes = [get_shape(weight)[-1] for weight in weights.node().inputs()]
    normed = 2 if get_shape(scale) else 1 if get_shape(statistics) else 0
    return depthwise_bank_flops(get_shape(x), sizes, stride.toIValue(), normed)


def _count_norm_sum(inputs, outputs):
    return norm_sum_flops(len(list(inputs[0].node().inputs())), prod(get_shape(outputs[0])))


def _count_pointwise(inputs, outputs):
    maps, weight, *_, reduces, _ = inputs
    batch, channels, height, width = get_shape(next(maps.node().inputs()))
    if reduces.toIValue():
        height, width = -(-height // 2), -(-width // 2)
    return pointwise_flops((batch, channels, height, width), get_shape(weight))


def _count_depthwise_pointwise(inputs, outputs):
    x, filters, weight, _, stride, statistics, _ = inputs
    batch, channels, height, width = shape = get_shape(x)
    sizes, stride = [get_shape(each)[-1] for each in filters.node().inputs()], stride.toIValue()
    filtered = depthwise_bank_flops(shape, sizes, stride, 1 if get_shape(statistics) else 0)
    return filtered + pointwise_flops((batch, channels, -(-height // stride), -(-width // stride)), get_shape(weight))
