"""The commands beside training: the sheet of augmentations, and the finder of batch sizes."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainer.__main__ import main
from trainer.checkpoint.run_folder import git_state
from trainer.train.trial import Timing, recommended

ROW = 24 + 16 + 4  # of 24 pixels, with title and gap


def test_the_sheet_shows_each_operation_and_all_together(cubes: str, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    plain = ("--augment.no-flip", "--augment.no-turn", "--augment.shift-vx", "0", "--images", "2")
    fields = ("--augment.brightness", "0", "--augment.contrast", "0", "--augment.cutout-p", "0.5")
    main(["augment", "unet3d_small", "--data", cubes, "--out", str(out), *plain, *fields,
          "--crop", "8", "24", "24"])  # fmt: skip
    with Image.open(out) as image:
        sheet = np.asarray(image)
    height = (len(sheet) - 4) // 5  # as it is, cutout, and three epochs of all
    original, cut = sheet[4 + 16 : 4 + height], sheet[4 + height + 16 : 4 + 2 * height]
    assert len(sheet) == 4 + 5 * height
    assert (original != cut).mean() > 0.01, "the box is shown though its probability is 0.5"


def test_the_sheet_of_a_patch(patches: str, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    main(["augment", "resnet18_2d_small", "--data", patches, "--out", str(out), "--images", "3",
          "--crop", "24", "24"])  # fmt: skip
    with Image.open(out) as image:
        assert image.width >= 4 + 3 * (24 + 4)
        assert image.height == 4 + 9 * ROW


def test_batch_sizes_are_timed_with_the_real_step(
    cubes: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["batch-size", "unet3d_small", "--data", cubes, "--crop", "8", "16", "16", "--width", "4",
          "--threads", "1", "--most", "2"])  # fmt: skip
    *lines, advice = capsys.readouterr().out.splitlines()
    assert [int(line.split()[0]) for line in lines] == [1, 2]
    assert advice.split()[:2] in (["--batch-size", "1"], ["--batch-size", "2"])


def test_the_smallest_batch_near_the_fastest_is_recommended() -> None:
    found = [(1, 10.0), (2, 20.0), (4, 29.0), (8, 30.0), (16, 0.0)]
    timings = [Timing(batch_size=n, images_s=speed, memory_gb=1.0) for n, speed in found]
    assert recommended(timings).batch_size == 4
    with pytest.raises(ValueError, match="not even one image fits"):
        recommended(timings[-1:])


def test_the_state_of_git_is_the_checkout_s_own() -> None:
    here = Path(__file__).parent
    inside = subprocess.run(
        ["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    state = git_state()
    assert (state.commit if state else "") == inside.stdout.strip()


@pytest.mark.parametrize("command", ["augment", "batch-size"])
def test_a_recipe_is_asked_for(command: str) -> None:
    with pytest.raises(ValueError, match=f"which recipe: python -m trainer {command} RECIPE"):
        main([command, "--data", "x"])
