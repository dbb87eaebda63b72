"""What a user did wrong is said in a sentence: what, where, what was expected, and the cure."""

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from ingest.dataset import Layout
from ingest.job.job_file import load_job
from ingest.plan.make import plan_dataset
from ingest.run import block
from ingest.run.blocks import Task, run_dataset
from ingest.run.finish import finish_dataset
from shards.contract.sample_store import read_dataset

ALONE = Task(index=0, count=1)


def plan(config: Path) -> Path:
    out = config.parent / "out"
    plan_dataset(load_job(config), out)
    return out


def run(out: Path) -> None:
    run_dataset(out, scheduler="threads", num_workers=1, task=ALONE)


def test_no_such_table(make_job: Any) -> None:
    job = make_job()
    job.config["synapses"]["path"] = "nowhere.parquet"
    with pytest.raises(ValueError, match=r"nowhere\.parquet: no such table; correct its path"):
        plan(job.write())


def test_a_missing_column_names_those_found(make_job: Any) -> None:
    job = make_job()
    job.synapses = job.synapses.rename(columns={"ctr_pt_position_x": "x"})
    with pytest.raises(ValueError, match=r"no column ctr_pt_position_x; it has id, size, .*name"):
        plan(job.write())


def test_positions_outside_the_volume(make_job: Any) -> None:
    job = make_job()
    for axis in "xyz":
        job.synapses[f"ctr_pt_position_{axis}"] += 10_000
    with pytest.raises(ValueError, match=r"100% of 64 boxes .* lie outside the volume .*volume:"):
        plan(job.write())


def test_the_wrong_resolution_is_recognized(make_job: Any) -> None:
    job = make_job()
    job.config["synapses"]["position_resolution_nm"] = [8, 8, 40]
    with pytest.raises(ValueError, match=r"100% with x and y resolution times 0\.5, pos"):
        plan(job.write())


def test_swapped_axes_are_recognized(make_job: Any) -> None:
    job = make_job()
    names = ["ctr_pt_position_x", "ctr_pt_position_z"]
    job.synapses[names] = job.synapses[names[::-1]].to_numpy()
    job.config["synapses"]["position_resolution_nm"] = [40, 4, 4]
    with pytest.raises(ValueError, match="% with columns and position_resolution_nm taken as zyx"):
        plan(job.write())
    job.config["synapses"]["position_resolution_nm"] = [4, 4, 40]
    with pytest.raises(ValueError, match="% with columns taken as zyx in place of xyz"):
        plan(job.write())


def test_all_zero_cutouts_mean_the_wrong_place(make_job: Any, tmp_path: Path) -> None:
    stack = np.zeros((72, 176, 200), dtype=np.uint8)
    stack[:, :4] = 1
    tifffile.imwrite(tmp_path / "dark.tif", stack)
    job = make_job("file")
    job.config["volume"]["path"] = "dark.tif"
    out = plan(job.write())
    with pytest.raises(ValueError, match=r"8 of 8 .* all zero.*position_resolution_nm"):
        run(out)


def test_a_folder_without_tiff_files(make_job: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no picture")
    job = make_job("folder")
    job.config["volume"]["path"] = "empty"
    with pytest.raises(ValueError, match=r"empty: 0 valid TIFF files"):
        plan(job.write())


@pytest.mark.parametrize("content", [b"", b"no TIFF at all"])
def test_a_broken_tiff_file(make_job: Any, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.tif").write_bytes(content)
    job = make_job("file")
    job.config["volume"]["path"] = "broken.tif"
    with pytest.raises(ValueError, match=r"broken\.tif: 0 valid images: not a readable image"):
        plan(job.write())


def test_sections_of_different_sizes(make_job: Any, formula_volumes: Any, tmp_path: Path) -> None:
    shutil.copytree(formula_volumes["folder"], tmp_path / "sections")
    tifffile.imwrite(tmp_path / "sections" / "s7.tif", np.ones((5, 6), np.uint8))
    job = make_job("folder")
    job.config["volume"]["path"] = "sections"
    with pytest.raises(ValueError, match=r"s7\.tif: section of \(5, 6\), but s0\.tif has"):
        plan(job.write())


def test_sixteen_bit_sections(make_job: Any, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "deep.tif", np.ones((4, 5, 6), np.uint16), photometric="minisblack")
    job = make_job("file")
    job.config["volume"]["path"] = "deep.tif"
    with pytest.raises(ValueError, match=r"found 16-bit gray or color \(uint16\), expected uint8"):
        plan(job.write())


def test_one_class_empty_in_a_split(make_job: Any) -> None:
    job = make_job()
    job.synapses.loc[job.synapses.index >= 8, "ei"] = "excitatory"  # one inhibitory neuron is left
    with pytest.raises(ValueError, match="split val has no sample of class inhibitory"):
        plan(job.write())


def test_no_label_at_all(make_job: Any) -> None:
    job = make_job()
    job.synapses["ei"] = "unknown"
    with pytest.raises(ValueError, match=r"1 classes \(unknown\), expected two or more; correct"):
        plan(job.write())
    job.config["labels"]["class_names"] = ["inhibitory", "excitatory"]
    with pytest.raises(ValueError, match=r"none of 64 .*no label: 64, among them 'unknown' \(64\)"):
        plan(job.write())


def test_repeated_ids(make_job: Any) -> None:
    job = make_job()
    job.synapses.loc[3, "id"] = 1000
    with pytest.raises(ValueError, match="1 synapse ids come twice, first 1000"):
        plan(job.write())


def test_ids_that_lost_digits(make_job: Any) -> None:
    job = make_job()
    job.synapses["pre_pt_root_id"] = job.synapses["pre_pt_root_id"].astype(float)
    with pytest.raises(ValueError, match=r"pre_pt_root_id, data row 1: found .*lose the last dig"):
        plan(job.write())


def test_no_such_volume(make_job: Any) -> None:
    job = make_job()
    job.config["volume"]["path"] = "nowhere"
    with pytest.raises(ValueError, match=r"nowhere: no volume there"):
        plan(job.write())


def test_a_view_of_another_voxel_size(make_job: Any) -> None:
    job = make_job(views={"patch": {"size": [24, 24], "voxel_size_nm": [4, 4, 40]}})
    with pytest.raises(
        ValueError,
        match=r"voxels of \[4\.0, 4\.0, 40\.0\] nm, but mip 0 of the volume has \[8\.0, 8",
    ):
        plan(job.write())


def test_another_plan_in_its_place(make_job: Any) -> None:
    job = make_job()
    out = plan(job.write())
    job.config["splits"]["seed"] = 7
    with pytest.raises(ValueError, match=r"config differs in splits; .*delete .* to start over"):
        plan(job.write())
    job.config["splits"].pop("seed")
    job.synapses.loc[0, "size"] = 12345
    with pytest.raises(ValueError, match="planned from other data: a source changed"):
        plan(job.write())
    with pytest.raises(ValueError, match=r"synapses\.parquet: the table changed since the plan"):
        run(out)


def test_another_volume_under_the_plan(make_job: Any, formula_volumes: Any, tmp_path: Path) -> None:
    shutil.copytree(formula_volumes["plain"], tmp_path / "em")
    job = make_job("plain")
    job.config["volume"]["path"] = "em"
    out = plan(job.write())
    info = json.loads((tmp_path / "em" / "info").read_text())
    info["scales"][0]["voxel_offset"][0] += 64
    (tmp_path / "em" / "info").write_text(json.dumps(info))
    with pytest.raises(ValueError, match="the volume changed since the plan; restore it"):
        run(out)


def test_missing_chunks_are_rejected_with_their_reason(
    make_job: Any, formula_volumes: Any, tmp_path: Path
) -> None:
    shutil.copytree(formula_volumes["plain"], tmp_path / "em")
    for chunk in sorted((tmp_path / "em" / "8_8_40").iterdir())[::24]:
        chunk.unlink()
    job = make_job("plain")
    job.config |= {"volume": {"path": "em"}, "qc": {"max_reject_fraction": 0.9}}
    out = plan(job.write())
    run(out)
    dataset = finish_dataset(out)
    assert 0 < dataset.num_rejects < 40
    job.config["qc"]["max_reject_fraction"] = 0.01
    shutil.rmtree(out)
    out = plan(job.write())
    run(out)
    with pytest.raises(ValueError, match=r"samples were rejected \(missing_data: .*first synapses"):
        finish_dataset(out)


def test_blocks_left_to_do(make_job: Any) -> None:
    out = plan(make_job().write())
    with pytest.raises(ValueError, match=r"4 of 4 blocks are not done \(first: 0\); run `python"):
        finish_dataset(out)
    with pytest.raises(ValueError, match="no such finished data set; run `python -m"):
        read_dataset(out)


def test_a_zarr_shard_that_is_gone(make_job: Any) -> None:
    out = plan(make_job().write())
    run(out)
    shutil.rmtree(out / "samples.zarr" / "patch" / "c" / "2")
    with pytest.raises(ValueError, match=r"the zarr shard of block 2 is gone; delete .* run again"):
        finish_dataset(out)


def test_an_unknown_schema_version(make_job: Any) -> None:
    out = plan(make_job().write())
    document = json.loads((out / "plan.json").read_text())
    del document["document_sha256"]
    (out / "plan.json").write_text(json.dumps({**document, "schema_version": 99}))
    with pytest.raises(ValueError, match="schema version 99 is unknown"):
        run(out)


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, "the disk or quota is full: free some space"),
        (errno.EACCES, "no permission to write there: choose another folder"),
    ],
)
def test_disk_trouble_stops_cleanly_and_resumes(
    make_job: Any, monkeypatch: pytest.MonkeyPatch, number: int, sentence: str
) -> None:
    out = plan(make_job().write())
    write = block.write_rows
    calls: list[int] = []

    def full(array: Any, start: int, images: np.ndarray) -> None:
        calls.append(start // array.shards[0])
        if calls[-1] == 2:
            raise OSError(number, "of the system", str(out / "samples.zarr"))
        write(array, start, images)

    monkeypatch.setattr(block, "write_rows", full)
    with pytest.raises(RuntimeError, match=rf"out.*: {sentence}.*finished blocks are kept"):
        run(out)
    assert calls[-1] == 2
    monkeypatch.undo()
    done = run_dataset(out, scheduler="threads", num_workers=1, task=ALONE)
    assert len(done.results) == 2
    assert (np.asarray(zarr.open_group(out / "samples.zarr", mode="r")["cube"]) > 0).all()


def test_a_failing_block_does_not_stop_the_others(
    make_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = plan(make_job().write())
    write = block.write_rows

    def poisoned(array: Any, start: int, images: np.ndarray) -> None:
        if start == array.shards[0]:
            raise ValueError("chunk 77 is damaged")
        write(array, start, images)

    monkeypatch.setattr(block, "write_rows", poisoned)
    with pytest.raises(RuntimeError, match=r"1 of 4 blocks failed \(1\).*chunk 77 is damaged"):
        run(out)
    done = [number for number in range(4) if Layout(out).block(number).exists()]
    assert done == [0, 2, 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"volum": {}}, r"unknown key volum, did you mean volume\? \(known keys: volume, synapses"),
        ({"volume": {}}, "key volume.path is missing"),
        (
            {"volume": {"path": "em", "format": "nifti"}},
            "format is 'nifti', expected 'precomputed'",
        ),
        ({"volume": {"path": "em", "format": "tiff"}}, "no voxel size; add `voxel_size_nm"),
        ({"samples": {"center": "soma"}}, "'soma', expected 'pre', 'ctr' or 'post'"),
        ({"samples": {"views": {"cube": {"size": [8, 8]}}}}, r"size of cube must be \[x, y, z\]"),
        ({"samples": {"views": {"volume": {"size": [8, 8]}}}}, "views must be patch, cube, or"),
        ({"samples": {"views": {"cube_": {"size": [8, 8]}}}}, "with a word behind, as cube_16nm"),
        ({"splits": {"fractions": {"train": 1.0}}}, "fractions needs train, val and test"),
        ({"splits": {"seed": "many"}}, "splits.seed is 'many', expected a valid int"),
        ({"labels": {}}, "labels come from `tables` or from `column`"),
        (
            {"labels": {"column": "ei", "classes": {"E": "exc"}}},
            "classes name exc alone; name another",
        ),
        (
            {"labels": {"column": "ei", "class_names": ["a", "b"], "classes": {"E": "exc"}}},
            "exc, which is not among",
        ),
        ({"samples_per_block": 0}, "samples_per_block must be positive"),
    ],
)
def test_a_wrong_config_names_the_key(make_job: Any, change: dict[str, Any], message: str) -> None:
    job = make_job()
    job.config |= change
    with pytest.raises(ValueError, match=message):
        load_job(job.write())


def test_a_config_that_is_no_yaml(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such job; pass the path"):
        load_job(tmp_path / "job.yaml")
    (tmp_path / "job.yaml").write_text("volume: [")
    with pytest.raises(ValueError, match="not readable as YAML"):
        load_job(tmp_path / "job.yaml")
