"""Compiles operators' Triton kernels for GPUs that are not there: ``python ahead.py upsample norm_sum``.

Prints one JSON object a line for each kernel, dtype and architecture, and for each kernel with all of its integers 1,
which Triton makes constants of: what was compiled, ``error`` (one line, empty where it compiled), and where it did
``cubin``, the file with the machine code, in Triton's cache. That cache, which goes by content, is why a second run
compiles nothing. Not to be run under the interpreter; :func:`run` sees to that.
"""

import importlib
import json
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

ARCHITECTURES = (75, 80, 90, 100)
DTYPES = ("fp32", "bf16", "fp16")
INTEGERS = ("i32", "i64")


def run(operators):
    """What was found, a dictionary each, by a process of its own: this one may be under the interpreter."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_DEFAULT_FP_FUSION"] = "1"
    command = [sys.executable, __file__, *operators]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True).stdout
    return [json.loads(line) for line in told.splitlines()]


def jobs(operator):
    """(index in AHEAD, dtype, architecture, whether integers are 1) of all that is compiled; an architecture takes its
    entry of the table."""
    for index, ahead in enumerate(_listed(operator)):
        for dtype in DTYPES if "*T" in str(ahead.signature) else DTYPES[:1]:
            for architecture in ARCHITECTURES:
                yield operator, index, dtype, architecture, False
        yield operator, index, DTYPES[0], 90, True


def compiled(job):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from partnas.kernels.launch import entry_for

    operator, index, dtype, architecture, ones = job
    ahead = _listed(operator)[index]
    entry = entry_for(ahead.table, architecture)
    names = ahead.kernel.arg_names
    constants = {**ahead.constexprs, **entry.blocks}
    if ones:
        constants |= {name: 1 for name in names if str(ahead.signature.get(name)).removesuffix(":16") in INTEGERS}
    types = {name: "constexpr" if name in constants else ahead.signature[name] for name in names}
    signature = {name: _type(value, dtype) for name, value in types.items()}
    attributes = {
        path: [["tt.divisibility", 16]]
        for place, name in enumerate(names)
        for path, value in _leaves(types[name], (place,))
        if value.startswith("*") or value.endswith(":16")
    }
    facts = {
        "operator": operator,
        "kernel": ahead.kernel.__name__,
        "dtype": dtype,
        "architecture": architecture,
        "ones": ones,
        "constexprs": {**{k: str(v) for k, v in ahead.constexprs.items()}, **entry.blocks},
        "num_warps": entry.num_warps,
        "num_stages": entry.num_stages,
    }
    try:
        source = ASTSource(ahead.kernel, signature, constants, attributes)
        found = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=entry.options())
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        return {**facts, "error": f"{type(error).__name__}: {reason}"}
    cubin = next(str(path) for name, path in found.metadata_group.items() if name.endswith(".cubin"))
    return {**facts, "error": "", "shared": found.metadata.shared, "cubin": cubin}


def _listed(operator):
    return importlib.import_module(f"partnas.kernels.{operator}").AHEAD


def _type(value, dtype):
    if isinstance(value, tuple):
        return tuple(_type(part, dtype) for part in value)
    return value.replace("*T", f"*{dtype}").removesuffix(":16")


def _leaves(value, path):
    if isinstance(value, tuple):
        for index, part in enumerate(value):
            yield from _leaves(part, (*path, index))
    else:
        yield path, value


if __name__ == "__main__":
    listed = [job for operator in sys.argv[1:] for job in jobs(operator)]
    # Forked, because importing PyTorch and Triton takes as long as compiling several kernels.
    with ProcessPoolExecutor(os.cpu_count(), get_context("fork")) as pool:
        for facts in pool.map(compiled, listed, chunksize=4):
            print(json.dumps(facts))
