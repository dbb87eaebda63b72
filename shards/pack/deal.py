"""Dealing of whole groups, as neurons, to parts: the splits of a job and the folds of a set.

scikit-learn's StratifiedGroupKFold knows equal parts only, takes 1.5 s for the 5,000 neurons that
take 0.05 s here, and evens out samples at the expense of neurons, the unit of our intervals: of 60
neurons in 5 folds a fold may have 67 % more or fewer of a class than the mean, here 25 %
(benchmarks/libraries.py).
"""

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def deal_groups(
    group_ids: Ints, labels: npt.NDArray[np.int16], shares: Floats, seed: int
) -> npt.NDArray[np.intp]:
    """Return the part (n,) of each sample, so that no group is in two parts.

    Each part gets its share of the groups of each class, and groups of like numbers of samples: a
    class's groups are ordered by that number, and some neighbors in this order change places at
    random. A group of several classes counts for its commonest.
    """
    neighbors = max(1, round(1 / shares.min()))
    ids, group, size = np.unique(group_ids, return_inverse=True, return_counts=True)
    classes, label = np.unique(labels, return_inverse=True)
    counts = np.zeros((len(ids), len(classes)), np.int64)
    np.add.at(counts, (group, label), 1)
    commonest = counts.argmax(axis=1)
    part = np.empty(len(ids), np.intp)
    rng = np.random.default_rng(seed)
    dealt = np.zeros(len(shares))
    for code in np.unique(commonest):
        members = np.flatnonzero(commonest == code)
        members = members[np.lexsort((rng.random(len(members)), -size[members]))]
        blocks = np.arange(len(members)) // neighbors
        members = members[np.lexsort((rng.random(len(members)), blocks))]
        part[members] = _in_proportion(len(members), shares, dealt)
    return part[group]


def _in_proportion(count: int, shares: Floats, dealt: Floats) -> npt.NDArray[np.intp]:
    """Deal `count` places out so that every stretch of them keeps to the shares.

    Each place goes to the part that lags its share most; `dealt` counts on from class to class, so
    that what is left over evens out. Where there are places enough, each part gets one.
    """
    places = np.empty(count, np.intp)
    for place in range(count):
        winner = int(np.argmax(shares * (dealt.sum() + 1) - dealt))
        places[place] = winner
        dealt[winner] += 1
    for part in range(len(shares)):
        if count >= len(shares) and not (places == part).any():
            most = int(np.argmax(np.bincount(places, minlength=len(shares))))
            places[np.flatnonzero(places == most)[-1]] = part
            dealt[[part, most]] += (1, -1)
    return places
