import platform
import subprocess
import sys

import pytest

PROBE = """
import resource, sys
import torch
from partnas.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(12 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(min(faults() for _ in range(3)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_freed_memory_is_found_again():
    def run(how):
        found = subprocess.run([sys.executable, "-c", PROBE, how], capture_output=True, text=True, timeout=120)
        assert found.returncode == 0, found.stderr
        return int(found.stdout)

    pages = 48  # of 48 MB, were they as large as 1 MB each
    assert run("leave") > pages > run("keep")
