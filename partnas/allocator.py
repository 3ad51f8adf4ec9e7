"""glibc's allocator, told to keep what is freed."""

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX of malloc.h


def keep_freed_memory() -> bool:
    """Let this process keep freed memory for the tensors to come, up to 2 GB of it.

    As it comes, glibc hands large blocks back to the system at once, and each step of a search asks for them again:
    every page is then cleared anew, a tenth of the time of a step.

    Returns:
        Whether it could be told; only glibc can.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))
