"""Limits on the memory that a file's declared sizes may take."""

import os

MAX_IMAGE_GB = 2.0
IMAGE_VARIABLE = "SYNSHARDS_IMAGE_GB"


def max_image_bytes() -> int:
    """Return how many bytes one image may have: `MAX_IMAGE_GB`, or what the environment says."""
    text = os.environ.get(IMAGE_VARIABLE, str(MAX_IMAGE_GB))
    try:
        limit = int(float(text) * 1e9)
    except (ValueError, OverflowError):
        limit = 0
    if limit < 1:
        raise ValueError(f"{IMAGE_VARIABLE} is {text!r}, expected a number of gigabytes above 0")
    return limit
