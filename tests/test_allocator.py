import ctypes
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from partnas.allocator import keep_freed_memory


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_glibc_takes_it():
    """In a process of its own, as it lasts."""
    code = "import sys; from partnas.allocator import keep_freed_memory; sys.exit(not keep_freed_memory())"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


@pytest.mark.parametrize("accepted", [1, 0])
def test_what_is_told(monkeypatch, accepted):
    told = {}

    def mallopt(parameter, value):
        told[parameter] = value
        return accepted

    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=mallopt))
    assert keep_freed_memory() is bool(accepted)
    if accepted:
        assert told == {-4: 0, -1: 2**31 - 1}  # M_MMAP_MAX, M_TRIM_THRESHOLD of malloc.h


def test_another_library_cannot_be_told(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    assert keep_freed_memory() is False
