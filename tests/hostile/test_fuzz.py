"""A reduced form of `benchmarks/fuzz.py`: no edited input is read wrongly, or ends in a defect."""

import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

sys.path.append(str(REPOSITORY / "benchmarks"))

from fuzz import BAD, KINDS
from hostile.kinds import Judge

COUNT = 40


@pytest.mark.parametrize("kind", KINDS)
def test_every_edited_input_is_read_rightly_or_refused(kind: str, tmp_path: Path) -> None:
    judge = Judge(KINDS[kind], tmp_path, seed=7)
    outcomes = [judge(number) for number in range(COUNT)]
    assert [(number, *told) for number, told in enumerate(outcomes) if told[0] in BAD] == []
    assert Counter(verdict for verdict, *_ in outcomes)["right"] >= COUNT // 5
