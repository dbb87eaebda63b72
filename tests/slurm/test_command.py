"""The command line, where no Slurm is needed."""

import shlex
from pathlib import Path

import pytest

from shards.cli.command import run_command
from slurm.__main__ import main

PACK = "-m shards pack d"
PLANNED, TASK_OF, TASK = "command=(-m trainer predict", "--num-tasks", '--task-index "$task"'


@pytest.fixture(autouse=True)
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and no Slurm on the PATH."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def exit_code(*words: str) -> int:
    try:
        return run_command(main, list(words))
    except SystemExit as end:
        return int(str(end.code))


@pytest.mark.parametrize(
    "words",
    ["", "submit", "submit ingest", "submit pipeline", "submit train", "status", "cancel"],
)
def test_help_has_an_example(capsys: pytest.CaptureFixture[str], words: str) -> None:
    assert exit_code(*words.split(), "--help") == 0
    assert not words or "Example: python -m slurm" in " ".join(capsys.readouterr().out.split())


def test_dry_run_prints_and_touches_nothing(
    capsys: pytest.CaptureFixture[str], empty: Path
) -> None:
    words = ("submit", "train", "unet3d", "--data", "a b", "--run", "r", "--seeds", "1", "2")
    assert exit_code(*words, "--dry-run", "--", "--lr", "1e-3") == 0
    command = shlex.join(["-m", "trainer", "unet3d", "--data", "a b", "--out"])
    expected = f"1) command=({command} r/unet3d-seed2 --seed 2 --lr 1e-3) ;;"
    assert expected in capsys.readouterr().out
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (
            "pack d --view patch cube --folds 3 --out o --limit 1",
            [
                "#SBATCH --array=0-1%1",
                f"  1) command=({PACK} --view cube --folds 3 --out o/cube) ;;",
            ],
        ),
        (
            "predict a b --splits test",
            ["  1) command=(-m trainer predict b --split test --tta) ;;"],
        ),
        (
            "predict m n --data plan --tasks 3",
            [
                "#SBATCH --array=0-2",
                f"{PLANNED} m n --data plan --out r/predictions --tta {TASK_OF} 3 {TASK})",
            ],
        ),
        (
            "pipeline job.yaml --infer m --tasks 2",
            [
                "command=(-m ingest plan job.yaml --out r/dataset)",
                f"{PLANNED} m --data r/dataset --out r/predictions {TASK_OF} 2 {TASK})",
                "command=(-m eval export r/predictions --out r/layer)",
            ],
        ),
        ("eval a b --out o", ["command=(-m eval a b --out o --no-images)"]),
    ],
)
def test_commands_of_the_other_steps(
    capsys: pytest.CaptureFixture[str], words: str, lines: list[str]
) -> None:
    extra = {"pack": (), "pipeline": (), "predict": ("--", "--tta"), "eval": ("--", "--no-images")}
    assert (
        exit_code(
            "submit", *words.split(), "--run", "r", "--dry-run", *extra[words.split(maxsplit=1)[0]]
        )
        == 0
    )
    assert set(lines) <= set(capsys.readouterr().out.splitlines())


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("submit ingest d --run r", 1, "scontrol is not installed here: run this on a login node"),
        ("submit ingest d --run r --dry-run --tasks 0", 1, "ingest needs at least one task, got 0"),
        ("submit ingest d --run r --dry-run --limit 0", 1, "must run, got limit 0"),
        ("submit pipeline c --run r --dry-run", 2, "nothing to train: name recipes with --patch"),
        ("submit ingest d --run r --dry-run --resume", 2, "leave --resume out"),
        ("submit ingest d --run r --site hyak --dry-run", 1, "needs account from you"),
        ("submit train a a --data u --run r --dry-run", 1, "give each once"),
        ("status r", 1, "r holds no chain: name the --run folder of a submission"),
        ("status r -- more", 2, "only submit runs commands that could take more"),
        ("submit ingest d", 2, "--run"),
        ("submit nothing", 2, "nothing"),
    ],
)
def test_errors_are_one_line_with_the_cure(
    capsys: pytest.CaptureFixture[str], words: str, code: int, message: str
) -> None:
    assert exit_code(*words.split()) == code
    message_shown = capsys.readouterr().err
    assert message in " ".join(message_shown.split())
    if code == 1:
        assert message_shown.count("\n") == 1
