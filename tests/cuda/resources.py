"""What every GPU kernel takes of a multiprocessor: ``scripts/gpu_resources`` writes docs/gpu_resources.{md,json} anew.

CUDA kernels: registers, shared memory, stack and spills as ptxas tells them, for every architecture; threads, dynamic
shared memory and the floor of resident warps from the ``KernelFacts`` of the kernel's file. Triton kernels: what
cuobjdump reads in each one compiled ahead of time. Both compile only what has changed.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / folder) for folder in ("tests", "tests/cuda", "tests/kernels", ".")]
import ahead  # noqa: E402
from compiled import ARCHITECTURES, compiled, find_nvcc  # noqa: E402
from emulator import build  # noqa: E402

from partnas.ops.backend import AVAILABLE  # noqa: E402

TABLE = REPOSITORY / "docs/gpu_resources.json"
DOCUMENT = TABLE.with_suffix(".md")
TRITON_FLOOR = 8
"""Resident warps that every Triton kernel is to have at the least; CUDA kernels state their own."""


@dataclass(frozen=True)
class Multiprocessor:
    warps: int
    blocks: int
    shared: int  # bytes, for all blocks
    block_shared: int  # bytes, for one block at the most
    reserved: int  # bytes that the system takes of every block's
    granule: int  # bytes in which shared memory is given out
    registers: int = 65536


# CUDA programming guide, "Technical specifications per compute capability".
MULTIPROCESSORS = {
    75: Multiprocessor(32, 16, 64 << 10, 64 << 10, 0, 256),
    80: Multiprocessor(64, 32, 164 << 10, 163 << 10, 1 << 10, 128),
    90: Multiprocessor(64, 32, 228 << 10, 227 << 10, 1 << 10, 128),
    100: Multiprocessor(64, 32, 228 << 10, 227 << 10, 1 << 10, 128),
}


def resident_warps(architecture: int, registers: int, shared: int, threads: int) -> int:
    """Warps of a kernel that are on a multiprocessor at once, by registers a thread and shared bytes a block; 0 where
    it cannot be launched."""
    limits = MULTIPROCESSORS[architecture]
    warps = -(-threads // 32)
    if shared > limits.block_shared or registers > 255 or threads > 1024:
        return 0
    of_warp = -(-max(registers, 1) * 32 // 256) * 256
    # Each quarter of a multiprocessor has registers of its own.
    by_registers = limits.registers // 4 // of_warp * 4 // warps
    of_block = -(-(shared + limits.reserved) // limits.granule) * limits.granule
    by_shared = limits.shared // of_block if of_block else limits.blocks
    return min(limits.blocks, limits.warps // warps, by_registers, by_shared) * warps


def cuda_rows(operator: str, nvcc: str) -> list[dict]:
    """One row for each kernel, launch configuration and architecture."""
    _, told = compiled(REPOSITORY / f"csrc/cuda/{operator}.cu", nvcc)
    found = re.findall(
        r"Compiling entry function '(\w+)' for 'sm_(\d+)'\n.*Function properties for.*\n"
        r"\s+(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads\n.*Used (\d+) registers(.*)",
        told,
    )
    names = _demangled(sorted({name for name, *_ in found}))
    facts = build.load(operator).facts
    rows = []
    for name, architecture, stack, stores, loads, registers, rest in found:
        matching = [
            fact
            for fact in facts
            if re.search(rf"(^|::){fact[0]}($|<)", names[name]) and fact[4] in (0, int(architecture))
        ]
        if not matching:
            raise ValueError(
                f"csrc/cuda/{operator}.cu: {operator}_facts() names no launch of {names[name]} on sm_{architecture}"
            )
        static = int((re.search(r"(\d+) bytes smem", rest) or [0, 0])[1])
        local = int((re.search(r"(\d+) bytes lmem", rest) or [0, 0])[1])
        for pattern, threads, dynamic, floor, _ in matching:
            rows.append(
                {
                    "floor": "cuda",
                    "operator": operator,
                    "kernel": names[name],
                    "launch": pattern,
                    "architecture": int(architecture),
                    "threads": threads,
                    "registers": int(registers),
                    "static_shared": static,
                    "dynamic_shared": dynamic,
                    "local": max(int(stack), local),
                    "spills": int(stores) + int(loads),
                    "warps": resident_warps(int(architecture), int(registers), static + dynamic, threads),
                    "warps_floor": floor,
                }
            )
    for pattern, *_ in facts:
        if not any(row["launch"] == pattern for row in rows):
            raise ValueError(f"csrc/cuda/{operator}.cu: no kernel is called {pattern}, which {operator}_facts() names")
    return rows


def _demangled(names: list[str]) -> dict[str, str]:
    """Mangled name -> name with template arguments, without namespaces, type and parameters."""
    text = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    short = {}
    for name, full in zip(names, text.splitlines(), strict=True):
        bare = full.replace("(anonymous namespace)::", "").replace("partnas::cuda::", "").removeprefix("void ")
        # Up to the parenthesis that opens the parameters: the first outside of the template's arguments.
        ends = [end for end, letter in enumerate(bare) if letter == "("]
        short[name] = bare[: next(end for end in ends if bare[:end].count("<") == bare[:end].count(">"))]
    return short


def triton_rows(kernels: list[dict]) -> list[dict]:
    """One row for each kernel, dtype and architecture that ``kernels/ahead.py`` has compiled."""
    failed = [kernel for kernel in kernels if kernel["error"]]
    if failed:
        raise ValueError(f"kernels/{failed[0]['operator']}.py: {failed[0]}")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        used = pool.map(_used, (kernel["cubin"] for kernel in kernels))
    rows = []
    for kernel, usage in zip(kernels, used, strict=True):
        threads, architecture = 32 * kernel["num_warps"], kernel["architecture"]
        constants = ", ".join(f"{name}={value}" for name, value in kernel["constexprs"].items())
        rows.append(
            {
                "floor": "triton",
                "operator": kernel["operator"],
                "kernel": f"{kernel['kernel']}<{kernel['dtype']}>({constants})",
                "launch": kernel["kernel"],
                "architecture": architecture,
                "threads": threads,
                "registers": usage["REG"],
                "static_shared": 0,
                "dynamic_shared": kernel["shared"],
                "local": max(usage["STACK"], usage["LOCAL"]),
                "spills": 0,  # they are part of the stack
                "warps": resident_warps(architecture, usage["REG"], kernel["shared"], threads),
                "warps_floor": TRITON_FLOOR,
            }
        )
    return rows


def _used(cubin: str) -> dict[str, int]:
    told = _run_tool("cuobjdump", "--dump-resource-usage", cubin)
    line = next(line for line in told.splitlines() if "REG:" in line)
    used = {name: int(value) for name, value in re.findall(r"(\w+):(\d+)", line)}
    # ptxas sets a frame aside now and then that no instruction touches.
    if used["STACK"] and not re.search(r"\b(LDL|STL)\b", _run_tool("nvdisasm", cubin)):
        used["STACK"] = 0
    return used


def _run_tool(name: str, *arguments: str) -> str:
    """What one of CUDA's tools prints: Triton's own, or else the toolkit's."""
    import triton

    shipped = Path(triton.__file__).parent / "backends/nvidia/bin" / name
    command = [str(shipped) if shipped.is_file() else shutil.which(name) or name, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def operators(floor: str) -> list[str]:
    return [operator for operator, floors in AVAILABLE.items() if floor in floors]


def compilers() -> dict[str, str]:
    """What the figures depend on beside the kernels."""
    nvcc = find_nvcc()
    told = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout if nvcc else ""
    release = re.search(r"release ([\d.]+), (V[\d.]+)", told)
    return {"nvcc": release[2] if release else "", "triton": version("triton")}


def violations(rows: list[dict]) -> list[str]:
    """What breaks a rule: spills, local memory, fewer warps than the floor."""
    broken = []
    for row in rows:
        where = f"{row['floor']} {row['kernel']} on sm_{row['architecture']} ({row['launch']})"
        if row["spills"] or row["local"]:
            broken.append(f"{where}: {row['spills']} bytes of spills, {row['local']} of local memory")
        if row["warps"] < row["warps_floor"]:
            broken.append(f"{where}: {row['warps']} warps a multiprocessor, the floor is {row['warps_floor']}")
    return broken


def text(rows: list[dict], compilers: dict[str, str]) -> str:
    """The table for people: one line for each launch, the worst of its kernels' instances."""
    lines = [
        "# What every GPU kernel takes of a multiprocessor",
        "",
        "Made by `scripts/gpu_resources` and compared with the kernels in tests; computed by the compilers, not measured.",
        f"nvcc {compilers['nvcc']}, Triton {compilers['triton']}. `gpu_resources.json` has a row for every instance;",
        "a line here is a kernel at one launch configuration, with the most registers and the fewest resident warps of its",
        "instances, on compute capability 7.5 / 8.0 / 9.0 / 10.0. Threads and shared memory (static + dynamic bytes) are",
        "those of a block, and like the floor, which resident warps must not fall below, are told once where the same on all",
        "four. No kernel spills or has local memory.",
        "A multiprocessor holds 32 warps at most on 7.5, and 64 from 8.0 on.",
    ]
    groups = defaultdict(list)
    for row in rows:
        groups[row["floor"], row["operator"], row["launch"]].append(row)
    for floor, title in (("cuda", "CUDA"), ("triton", "Triton")):
        lines += [
            "",
            f"## {title}",
            "",
            "| operator | kernel | instances | threads | shared | registers | warps | floor |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for (of, operator, launch), group in groups.items():
            if of != floor:
                continue
            by = {a: [row for row in group if row["architecture"] == a] for a in ARCHITECTURES}
            registers = " / ".join(str(max(row["registers"] for row in by[a])) for a in ARCHITECTURES)
            warps = " / ".join(str(min(row["warps"] for row in by[a])) for a in ARCHITECTURES)
            threads = _listed(_span(row["threads"] for row in by[a]) for a in ARCHITECTURES)
            static = max(row["static_shared"] for row in group)
            shared = f"{static} + {_listed(_span(row['dynamic_shared'] for row in by[a]) for a in ARCHITECTURES)}"
            instances = len({row["kernel"] for row in group})
            lines.append(
                f"| `{operator}` | `{launch}` | {instances} | {threads} | {shared} | {registers} | {warps} | "
                f"{_listed(str(by[a][0]['warps_floor']) for a in ARCHITECTURES)} |"
            )
    return "\n".join(lines) + "\n"


def _span(values) -> str:
    values = sorted(set(values))
    return str(values[0]) if len(values) == 1 else f"{values[0]}-{values[-1]}"


def _listed(texts) -> str:
    """One for each architecture, or once what is the same on all."""
    texts = list(texts)
    return texts[0] if len(set(texts)) == 1 else " / ".join(texts)


def stored(rows: list[dict]) -> str:
    """The table for programs: one row a line, so that a change shows as one."""
    listed = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    return f'{{"compilers": {json.dumps(compilers())}, "rows": [\n{listed}\n]}}\n'


def all_rows(nvcc: str) -> list[dict]:
    rows = [row for operator in operators("cuda") for row in cuda_rows(operator, nvcc)]
    rows += triton_rows(ahead.run(operators("triton")))
    return sorted(rows, key=lambda row: [str(row[name]) for name in ("floor", "operator", "launch", "kernel")])


def main():
    nvcc = find_nvcc()
    if nvcc is None:
        sys.exit("gpu_resources: nvcc was not found; put it on PATH or set CUDA_HOME")
    rows = all_rows(nvcc)
    TABLE.write_text(stored(rows), encoding="utf-8")
    DOCUMENT.write_text(text(rows, compilers()), encoding="utf-8")
    broken = violations(rows)
    print(f"{len(rows)} rows: {TABLE.relative_to(REPOSITORY)}, {DOCUMENT.relative_to(REPOSITORY)}", *broken, sep="\n")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
