"""A bit that flipped in a data set's files never changes a result in silence."""

from pathlib import Path
from typing import Any

import pytest

from ingest.dataset import Layout
from ingest.job.job_file import load_job
from ingest.plan.make import plan_dataset
from ingest.qc.describe_dataset import inspect_lines
from ingest.run.blocks import Task, run_dataset
from ingest.run.finish import finish_dataset
from shards.pack.assign import PackOptions
from shards.pack.write_shards import pack
from tests.ingest.volume.bitrot import flip_bits, flipped, readers

ALONE = Task(index=0, count=1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, module_job: Any) -> Path:
    out = tmp_path_factory.mktemp("rot") / "out"
    plan_dataset(load_job(module_job.write()), out)
    run_dataset(out, scheduler="threads", num_workers=1, task=ALONE)
    finish_dataset(out)
    return out


@pytest.mark.parametrize("pattern", list(readers(Path())))
def test_no_flip_is_silent(finished: Path, pattern: str) -> None:
    counts = flip_bits(finished, pattern, flips=12, seed=1)
    assert set(counts) <= {"noticed", "harmless"}
    assert counts["noticed"] >= 10


def test_the_commands_name_the_file(finished: Path, tmp_path: Path) -> None:
    layout = Layout(finished)
    with flipped(layout.block(1), 999), pytest.raises(ValueError, match=r"000001.*delete it and"):
        finish_dataset(finished)
    layout.block(0).rename(tmp_path / "aside")
    with flipped(layout.plan_table, 3000), pytest.raises(ValueError, match=r"plan\.parquet: alt"):
        run_dataset(finished, scheduler="threads", num_workers=1, task=ALONE)
    (tmp_path / "aside").rename(layout.block(0))
    for name in ("dataset.json", "rejects.parquet"):
        with flipped(finished / name, 999), pytest.raises(ValueError, match=f"{name}.*: altered"):
            list(inspect_lines(finished))
    for name in ("samples.parquet", "samples.zarr/patch/zarr.json"):
        with flipped(finished / name, 999), pytest.raises(ValueError, match=f"{name}: altered"):
            pack(finished, "patch", str(tmp_path / "set"), PackOptions())
    with (
        flipped(finished / "samples.zarr/patch/c/2/0/0/0", 9),
        pytest.raises(ValueError, match=r"patch/c/2/0/0/0: row 32 does not match its checksum"),
    ):
        pack(finished, "patch", str(tmp_path / "set"), PackOptions())


def test_data_sets_without_hashes_are_read(finished: Path) -> None:
    """Those of other tools: no seal, no `files`."""
    text = (finished / "dataset.json").read_text()
    try:
        (finished / "dataset.json").write_text(text[: text.index(',\n  "files"')] + "}")
        assert any("pictures" in line for line in inspect_lines(finished))
    finally:
        (finished / "dataset.json").write_text(text)
