"""Twenty wrong jobs: each is told by one line that names what is wrong and the cure."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ingest.__main__ import main
from shards.cli.command import run_command

Change = Callable[[Any], object]


def config(**parts: Any) -> Change:
    """Return what updates parts of a job, each one's keys."""

    def change(job: Any) -> None:
        for key, value in parts.items():
            old = job.config.get(key)
            job.config[key] = {**old, **value} if isinstance(old, dict) else value

    return change


def table(**columns: Any) -> Change:
    """Return what replaces columns of the synapse table, a function by what it makes of them."""

    def change(job: Any) -> None:
        for name, value in columns.items():
            job.synapses[name] = value(job.synapses[name]) if callable(value) else value

    return change


def both(*changes: Change) -> Change:
    return lambda job: [change(job) for change in changes]


WRONG: dict[str, tuple[str, Change, str]] = {
    "no axes": ("sharded", lambda job: job.config.pop("axes"), "write `axes: xyz` at its top"),
    "axes of arrays": (
        "file",
        both(config(axes="zyx"), config(volume={"voxel_size_nm": [40, 8, 8]})),
        r"and reverse what is z, y, x: `volume.voxel_size_nm: \[8, 8, 40\]`",
    ),
    "a typing error": (
        "sharded",
        config(sample={"center": "ctr"}),
        "unknown key sample, did you mean samples",
    ),
    "a TIFF without its format": (
        "file",
        lambda job: [job.config["volume"].pop(key) for key in ("format", "voxel_size_nm")],
        "`format: tiff`|`voxel_size_nm",
    ),
    "a TIFF without voxel size": (
        "file",
        lambda job: job.config["volume"].pop("voxel_size_nm"),
        r"add `voxel_size_nm: \[x, y, z\]`",
    ),
    "no such volume": (
        "sharded",
        config(volume={"path": "nowhere"}),
        "nowhere: no volume there.*correct",
    ),
    "no such scale": (
        "sharded",
        lambda job: job.config["samples"]["views"]["patch"].update(mip=7),
        "no mip 7; the volume has 1",
    ),
    "another voxel size": (
        "sharded",
        lambda job: job.config["samples"]["views"]["patch"].update(voxel_size_nm=[4, 4, 40]),
        r"has \[8.0, 8.0, 40.0\]; correct voxel_size_nm or choose another mip",
    ),
    "no such table": (
        "sharded",
        config(synapses={"path": "lost.csv"}),
        "lost.csv: no such table; correct its path",
    ),
    "a column by another name": (
        "sharded",
        config(synapses={"columns": {"pre_root_id": "neuron"}}),
        "no column neuron, which synapses.columns.pre_root_id names; it has id, size.* null",
    ),
    "no position": (
        "sharded",
        config(samples={"center": "ctr"}, synapses={"columns": {"ctr": None}}),
        "synapses.columns.ctr is null; name its column or choose another center",
    ),
    "ids that are names": (
        "sharded",
        table(id=lambda ids: "s" + ids.astype(str)),
        "state `ids: names` in the job",
    ),
    "ids that come twice": (
        "sharded",
        table(id=7),
        "63 synapse ids come twice, first 7; remove the repeated rows",
    ),
    "another resolution": (
        "sharded",
        config(synapses={"position_resolution_nm": [8, 8, 40]}),
        r"inside would lie 100% with .*position_resolution_nm \[4, 4, 40\]",
    ),
    "x and z exchanged": (
        "sharded",
        config(synapses={"columns": {"ctr": ", ".join(f"ctr_pt_position_{a}" for a in "zyx")}}),
        "columns taken as zyx in place of xyz",
    ),
    "images too large for the volume": (
        "sharded",
        config(samples={"views": {"cube": {"size": [150, 150, 40]}}}),
        r"lower samples.views or raise qc.max_reject_fraction \(0.2\) above 0\.\d",
    ),
    "no classes": (
        "sharded",
        table(ei="excitatory"),
        r"1 classes \(excitatory\).*correct labels.column, or .*labels.class_names",
    ),
    "classes by other names": (
        "sharded",
        config(labels={"class_names": ["E", "I"]}),
        "check that tables and labels are of one materialization version, and `classes`",
    ),
    "splits by a column that is not there": (
        "sharded",
        config(splits={"by": "column", "column": "fold"}),
        "no column fold; it has id, size",
    ),
    "images that overlap": (
        "sharded",
        config(
            splits={"overlap": "drop"},
            samples={"views": {"patch": {"size": [64, 64]}, "cube": {"size": [64, 64, 16]}}},
            qc={"max_reject_fraction": 0.9},
        ),
        "training images were left out .*lower samples.views, .*or set splits.overlap to keep",
    ),
    "masks without a segmentation": (
        "sharded",
        config(samples={"channels": ["em", "pre"]}),
        "add volume.segmentation, of the tables' version",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_job_is_told_by_one_line_with_the_cure(
    make_job: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    kind, change, cure = WRONG[name]
    job = make_job(kind)
    change(job)
    path = job.write()
    assert run_command(main, ["plan", str(path), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1, said
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match=cure):
        raise ValueError(said)
    assert run_command(main, ["check", str(path)]) == 1
    assert said.strip().removeprefix("error: ") in capsys.readouterr().out


def test_precomputed_may_stand_before_a_folder(
    make_job: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    job = make_job()
    job.config["volume"]["path"] = f"precomputed://{job.config['volume']['path']}"
    out = str(tmp_path / "out")
    for words in (
        ["plan", str(job.write()), "--out", out],
        ["run", out, "--task-index", "0", "--num-tasks", "1"],
        ["finish", out],
    ):
        assert run_command(main, words) == 0, capsys.readouterr().err
