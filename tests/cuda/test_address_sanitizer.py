"""Every kernel's tests in the emulator once more, under GCC's own AddressSanitizer, which also guards a thread's stack
and every shared array. What passed is not run again until a kernel, its tests or the emulator change."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from emulator import build

HERE = Path(__file__).resolve().parent
pytestmark = pytest.mark.skipif(bool(build.missing()), reason=build.missing())
TESTED = [path for path in sorted(HERE.glob("test_*.py")) if (build.ROOT / f"csrc/cuda/{path.stem[5:]}.cu").is_file()]


@pytest.mark.parametrize("tests", TESTED, ids=lambda path: path.stem[5:])
def test_nothing_is_accessed_out_of_bounds(tests):
    operator = tests.stem[5:]
    library = build.compiled(operator, "address")
    digest = hashlib.sha256(library.name.encode())
    for path in (tests, Path(__file__), HERE.parent / "emulator/build.py", build.ROOT / f"partnas/ops/{operator}.py"):
        digest.update(path.read_bytes())
    passed = build.cache() / f"passed-{operator}-{digest.hexdigest()[:20]}"
    if passed.is_file():
        return
    environment = {**os.environ, **build.address_sanitizer(), "PARTNAS_EMULATOR_ORDERS": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", str(tests)]
    process = subprocess.run(command, cwd=build.ROOT, capture_output=True, text=True, env=environment)
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-6000:]
    passed.touch()
