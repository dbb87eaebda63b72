"""Torch's errors whose cure is an option of the run."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

MEMORY = re.compile(
    r"out of memory|DefaultCPUAllocator|_STATUS_ALLOC_FAILED|can't allocate memory|"
    r"Unable to allocate",
    re.IGNORECASE,
)
ASKED = re.compile(r"(?:tried to allocate|allocate) ([\d.]+ ?(?:[KMGT]i?B|bytes))", re.IGNORECASE)
ONE_VALUE = "Expected more than 1 value per channel"


@contextmanager
def with_cures(*, batch_size: int, training: bool) -> Iterator[None]:
    """Turn a lack of memory, and batch norms of one value, into one line with the cure.

    `batch_size` is the number of images that go through the model at a time on each rank.
    """
    try:
        yield
    except (MemoryError, RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise RuntimeError(_memory_line(error, batch_size, training=training)) from None
        if is_one_value(error):
            raise ValueError(
                f"a batch norm got one value per channel, from {batch_size} images at a time on "
                "each rank; use a larger --batch-size, a smaller --accumulate, a larger --crop, or "
                "--norm group"
            ) from None
        raise


def is_out_of_memory(error: Exception) -> bool:
    """True where a device or the machine had too little memory.

    Accelerate's `should_reduce_batch_size` knows neither cuDNN's nor NumPy's errors.
    """
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and bool(MEMORY.search(str(error)))
    )


def is_one_value(error: Exception) -> bool:
    """True where a batch norm had one value per channel."""
    return isinstance(error, ValueError) and ONE_VALUE in str(error)


def _memory_line(error: Exception, batch_size: int, *, training: bool) -> str:
    size = ASKED.search(str(error))
    what = f" ({size[1]} more asked for)" if size else ""
    gpu = " of the GPU" if "CU" in str(error) else ""
    cure = "lower --batch-size"
    if training:
        cure += (
            ", raise --accumulate, use --checkpoint-activations or a smaller --crop; `python -m "
            "trainer batch-size RECIPE --data URL` says what fits"
        )
    return f"out of memory{gpu}{what} with {batch_size} images at a time on each rank; {cure}"
