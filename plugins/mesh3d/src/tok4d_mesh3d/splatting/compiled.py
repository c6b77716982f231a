"""Compiling the CPU kernels with numba, and running them over threads.

Kernels are compiled for one thread and release the interpreter's lock; plain Python threads run them side by side.
numba's own parallel loops do not suit: its OpenMP layer cannot be forked (loader workers), its other one may be entered
by one thread at a time, and idle threads of either may spin.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba

logger = logging.getLogger(__name__)

# Not "nnan" and "ninf": the tests for what is left of a pixel must hold for every value.
RELAXED = {"contract", "nsz", "arcp", "afn", "reassoc"}


def compiled(function: Callable[..., Any]) -> Any:
    """`function` compiled on first use, for float32 and float64 arrays alike.

    The machine code is kept beside the source or, where that cannot be written to, in the user's cache folder
    (`NUMBA_CACHE_DIR` names another); where there is neither, every process compiles for itself. numba notices a
    change of the file a kernel is in, not of files it calls into: kernels call only what is in their own file.
    """
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=RELAXED)(function)
    except RuntimeError as error:
        logger.warning("no folder for compiled code (%s): set NUMBA_CACHE_DIR to one that can be written to", error)
        return numba.njit(nogil=True, error_model="numpy", fastmath=RELAXED)(function)


def in_parallel(work: Callable[[int], None], count: int, threads: int) -> None:
    """`work(0)` to `work(count - 1)`, in any order, on at most `threads` threads; the first exception is raised.

    The threads live as long as the call: nothing is left that a fork could break or that could spin.
    """
    threads = min(threads, count)
    if threads <= 1:
        for i in range(count):
            work(i)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="splat") as pool:
        for future in [pool.submit(work, i) for i in range(count)]:
            future.result()
