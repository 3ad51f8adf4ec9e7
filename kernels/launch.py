"""How every kernel is launched: block sizes by architecture, on the tensors' device and current stream."""

import contextlib
import functools
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton

from partnas.errors import PartnasError
from partnas.files import write_text


class Config(NamedTuple):
    """How one kernel is launched: its block sizes (powers of two, passed as constexprs), warps, pipeline stages, how many
    registers a thread may take, and whether ``PARTNAS_AUTOTUNE`` may try its neighbours. Left to itself, the compiler
    spills a few registers where that lets one more block in."""

    blocks: dict[str, int]
    num_warps: int = 4
    num_stages: int = 2
    registers: int | None = None
    varies: bool = True

    def options(self) -> dict[str, Any]:
        """What Triton compiles with."""
        # Fused products and sums, whatever a release of Triton takes for its default.
        options = {"num_warps": self.num_warps, "num_stages": self.num_stages, "enable_fp_fusion": True}
        return options if self.registers is None else {**options, "maxnreg": self.registers}


Table = Mapping[int, Config]
"""A :class:`Config` by compute capability, 75 for 7.5: a device takes the entry of the greatest that it has."""


class Ahead(NamedTuple):
    """A kernel as it is compiled ahead of time, for each architecture with its entry of ``table``.

    ``signature`` gives the types of all arguments but the constexprs: ``"*fp32"``, ``"i32"``, ``"i64"``, ``"fp32"``, or a
    tuple of such. ``"*T"`` is a map's pointer, for each dtype of maps in turn; pointers are taken to be aligned, and so is
    an integer (to be a multiple of 16) that ends in ``":16"``. ``constexprs`` are those that ``table`` does not give.
    """

    kernel: Any
    table: Table
    signature: dict[str, Any]
    constexprs: dict[str, Any] = {}  # noqa: RUF012


STORED = (torch.float32, torch.bfloat16, torch.float16)
"""Dtypes of maps that floating-point kernels are written for."""


def check(condition: bool, message: str) -> None:
    """Raise ``PartnasError`` with the message where a condition does not hold."""
    if not condition:
        raise PartnasError(message)


def check_storage(name: str, *maps: torch.Tensor) -> None:
    """Refuse maps that the kernels would convert to float32 and back; ``name`` is the operator's.

    Raises:
        PartnasError: The dtype of a map is none of ``STORED``.
    """
    for x in maps:
        if x.dtype == torch.float64:
            raise PartnasError(f"{name}: float64 maps are left to the reference")
        if x.dtype not in STORED:
            raise PartnasError(f"{name}: dtype must be float32, bfloat16, float16 or float64, got {x.dtype}")


def launch(kernel, grid: Callable[[dict[str, int]], tuple[int, ...]], table: Table, *args, **constexprs) -> None:
    """Start ``kernel`` on the device and the current stream of its tensors; a grid with a zero in it is no launch.

    With ``PARTNAS_AUTOTUNE=1`` the entries of ``table`` and their neighbours are measured once for each problem, and the
    fastest is kept in ``$XDG_CACHE_HOME/partnas``. A kernel is run several times over for that: it must not read what it
    writes. What the caller allocates must not depend on the blocks.

    Args:
        grid: The number of programs along up to three axes, from the block sizes.
        args: Tensors, tuples of tensors, and numbers, in the kernel's order.
        constexprs: The kernel's constexprs that are no block sizes.
    """
    device = _first_tensor(args).device
    if device.type != "cuda":
        _start(kernel, grid, table[max(table)], args, constexprs)
        return
    with torch.cuda.device(device):
        config = entry_for(table, _capability(device.index))
        if os.environ.get("PARTNAS_AUTOTUNE") == "1":
            config = _fastest(kernel, grid, table, config, args, constexprs, device)
        _start(kernel, grid, config, args, constexprs)


def _start(kernel, grid, config: Config, args, constexprs) -> None:
    programs = grid(config.blocks)
    if all(programs):
        kernel[programs](*args, **constexprs, **config.blocks, **config.options())


def _first_tensor(args) -> torch.Tensor:
    for arg in args:
        if isinstance(arg, torch.Tensor):
            return arg
        if isinstance(arg, tuple) and arg and isinstance(arg[0], torch.Tensor):
            return arg[0]
    raise TypeError("launch: no argument is a tensor")


@functools.cache
def _capability(index: int) -> int:
    major, minor = torch.cuda.get_device_capability(index)
    return 10 * major + minor


def entry_for(table: Table, capability: int) -> Config:
    """The entry of ``table`` that a device of ``capability`` takes."""
    return table[max([least for least in table if least <= capability] or [min(table)])]


_measured: dict[tuple[Path, str], Config] = {}


def _fastest(kernel, grid, table, usual: Config, args, constexprs, device: torch.device) -> Config:
    path = _cache_file(kernel, table, device)
    problem = json.dumps([_described(arg) for arg in args] + sorted((name, str(v)) for name, v in constexprs.items()))
    if (path, problem) not in _measured:
        kept = _read(path)
        if problem not in kept:
            if torch.cuda.is_current_stream_capturing():
                return usual
            kept[problem] = min(_candidates(table), key=lambda config: _time(kernel, grid, config, args, constexprs))
            _write(path, kept)
        _measured[path, problem] = kept[problem]
    return _measured[path, problem]


def _cache_file(kernel, table: Table, device: torch.device) -> Path:
    source = hashlib.sha256(f"{kernel.cache_key} {sorted(table.items())}".encode()).hexdigest()[:16]
    gpu = "".join(c if c.isalnum() else "-" for c in torch.cuda.get_device_name(device))
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "partnas"
    return folder / f"{gpu}.{kernel.__name__}.{source}.json"


def _described(arg):
    if isinstance(arg, torch.Tensor):
        return str(arg.dtype)
    return [_described(part) for part in arg] if isinstance(arg, tuple) else arg


def _candidates(table: Table) -> Iterator[Config]:
    seen = []
    for entry in table.values():
        warps = [entry._replace(num_warps=w) for w in (entry.num_warps // 2, 2 * entry.num_warps) if 1 <= w <= 16]
        stages = [entry._replace(num_stages=s) for s in (entry.num_stages - 1, entry.num_stages + 1) if s >= 1]
        blocks = [
            entry._replace(blocks={**entry.blocks, name: other})
            for name, size in entry.blocks.items()
            for other in (size // 2, 2 * size)
            if other >= 1
        ]
        for config in (entry, *warps, *stages, *blocks) if entry.varies else (entry,):
            if config not in seen:
                seen.append(config)
                yield config


def _time(kernel, grid, config: Config, args, constexprs, repeats: int = 10) -> float:
    """The median time of a launch; infinite where the device lacks the resources for it, or it does not compile."""
    try:
        _start(kernel, grid, config, args, constexprs)
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
        for begin, end in events:
            begin.record()
            _start(kernel, grid, config, args, constexprs)
            end.record()
        torch.cuda.synchronize()
    except (triton.OutOfResources, triton.CompilationError, RuntimeError):  # the last, of a pass of the compiler
        return math.inf
    return sorted(begin.elapsed_time(end) for begin, end in events)[repeats // 2]


def _read(path: Path) -> dict[str, Config]:
    """What was measured before; a file that makes no sense counts as none."""
    try:
        return {
            problem: Config(
                {str(name): int(size) for name, size in blocks.items()}, int(warps), int(stages), *registers
            )
            for problem, (blocks, warps, stages, *registers) in json.loads(path.read_text(encoding="utf-8")).items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write(path: Path, kept: dict[str, Config]) -> None:
    # Without a place to keep them, measurements hold for this process alone.
    with contextlib.suppress(OSError):
        write_text(path, json.dumps(kept, indent=1))
