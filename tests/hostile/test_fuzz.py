"""Reduced `benchmarks/hostile/fuzz.py`: no edited input is read wrongly, or ends in a defect."""

from collections import Counter
from pathlib import Path

import pytest

from benchmarks.hostile.fuzz import BAD, KINDS
from benchmarks.hostile.kinds import Judge

COUNT = 40


@pytest.mark.parametrize("kind", KINDS)
def test_every_edited_input_is_read_rightly_or_refused(kind: str, tmp_path: Path) -> None:
    judge = Judge(KINDS[kind], tmp_path, seed=7)
    outcomes = [judge(number) for number in range(COUNT)]
    assert [(number, *told) for number, told in enumerate(outcomes) if told[0] in BAD] == []
    assert Counter(verdict for verdict, *_ in outcomes)["right"] >= COUNT // 5
