"""The implementations that this machine can run, for tests that go through all of them."""

from collections.abc import Iterator
from contextlib import contextmanager

from partnas.errors import PartnasError
from partnas.ops import native, use_backend


@contextmanager
def instruction_set(name: str) -> Iterator[None]:
    """Runs the native kernels of one instruction set, and puts back the one that was in use."""
    before = native.cpu_capability()
    native.set_cpu_capability(name)
    try:
        yield
    finally:
        native.set_cpu_capability(before)


def _instruction_sets() -> list[str]:
    names = []
    for name in ("baseline", "avx2", "avx512") if native.loaded() else ():
        try:
            with instruction_set(name):
                names.append(name)
        except PartnasError:
            break
    return names


INSTRUCTION_SETS = _instruction_sets()
IMPLEMENTATIONS = ["reference", *INSTRUCTION_SETS]


@contextmanager
def implementation(name: str) -> Iterator[None]:
    """Runs every operator on ``'reference'``, or on the native kernels of the instruction set of that name."""
    if name == "reference":
        with use_backend("reference"):
            yield
    else:
        with use_backend("native"), instruction_set(name):
            yield
