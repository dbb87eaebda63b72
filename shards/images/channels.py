"""The channels of an image that hold EM, by their names; the others are masks."""

import re
from collections.abc import Sequence

EM = re.compile(r"em(?![a-z])", re.IGNORECASE)
MASK = re.compile(
    r"(?<![a-z])(pre|post|cleft|(segmentation|seg|mask|label)s?)(?![a-z])", re.IGNORECASE
)


def em_channels(names: Sequence[str]) -> tuple[int, ...]:
    """Return the numbers of the channels that hold EM; empty where all are masks.

    Those whose names begin with the word `em`. Where none does, all but those that are named as
    masks: `pre`, `post`, `cleft`, or with `mask`, `seg` or `label` in the name.
    """
    if named := tuple(i for i, name in enumerate(names) if EM.match(name)):
        return named
    return tuple(i for i, name in enumerate(names) if not MASK.search(name))
