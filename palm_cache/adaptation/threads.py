"""How many threads tensors of a size are worth."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache

from threadpoolctl import ThreadpoolController

LARGE = 2**24
"""Numbers in a tensor from which threads are left as they are: far more than few shots have.

Below it they are no help: on two cores with 14 processes waiting, an epoch of PALM took 1.5 s with one thread
and 19 s with two at 2^24 numbers; two epochs at 2^20 took 0.3 s and 5 s. Above it, and on cores without other
work, where threads begin to pay has not been measured."""


def threads_for(numbers: int) -> AbstractContextManager[object]:
    """Compute with one thread where tensors hold fewer than :data:`LARGE` numbers.

    Operations on small tensors last microseconds. Threads gain nothing in them, and on busy cores they wait
    for each other: with two threads heads took about ten times as long to fit.
    """
    # Not torch.set_num_threads: once it has been raised again, MKL's batched solver fails in torch 2.14.
    return nullcontext() if numbers >= LARGE else _libraries().limit(limits=1, user_api="openmp")


@cache
def _libraries() -> ThreadpoolController:
    """Return the libraries of this process that have threads; looking for them takes milliseconds."""
    return ThreadpoolController()
