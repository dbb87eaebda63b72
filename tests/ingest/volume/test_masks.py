"""Masks beside EM: what the segmentation holds at the centre of each voxel."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zarr
from cloudvolume import CloudVolume

import ingest.volume.masks
from eval.__main__ import main as eval_main
from ingest.dataset import Layout, read_table
from ingest.job.job_file import load_job
from ingest.plan.make import plan_dataset
from ingest.plan.plan_record import read_plan
from ingest.run.block import Opened, execute
from ingest.run.blocks import Task, run_dataset
from ingest.run.export_tiff import export_tiff
from ingest.run.finish import finish_dataset
from ingest.volume.cloudvolume_reader import CloudVolumeReader, fetch_info
from ingest.volume.files.image_files import read_image
from ingest.volume.ranges.byte_ranges import Fetcher
from ingest.volume.ranges.precomputed import precomputed_volume
from shards.pack.assign import PackOptions
from shards.pack.write_shards import pack
from shards.stream.order import OrderSpec
from shards.stream.shardset import open_shards
from shards.stream.stream import Stream
from tests.servers.files import FileServer
from trainer.__main__ import main as trainer_main

OFFSET_NM = np.array([160 * 8, 96 * 8, 48 * 40])  # of the formula volume, x, y, z
SIZE_NM = np.array([200 * 8, 176 * 8, 72 * 40])
ROOT = 864691135000000000
CELL_NM = 200  # sides of made-up neurons


def segment(x_nm: Any, y_nm: Any, z_nm: Any) -> Any:
    """The neuron at a point: a cube of space each, some of which belong to nobody."""
    x, y, z = (np.asarray(axis // CELL_NM, dtype=np.int64) for axis in (x_nm, y_nm, z_nm))
    cell = x % 5 + 5 * (y % 5) + 25 * (z % 4)
    return np.where(cell % 11 == 3, 0, ROOT + cell).astype(np.uint64)


def segments(start_nm: np.ndarray, size_nm: np.ndarray, count: np.ndarray) -> np.ndarray:
    """The neurons at the centres of voxels, (x, y, z)."""
    axes = [s + (np.arange(n) + 0.5) * v for s, v, n in zip(start_nm, size_nm, count, strict=True)]
    return np.asarray(segment(*np.ix_(*axes)))


@dataclass(frozen=True)
class Kind:
    """How a segmentation is stored: the resolution of each of its scales, x, y, z."""

    encoding: str
    resolutions: tuple[tuple[int, int, int], ...]
    chunk: tuple[int, int, int] = (32, 32, 16)


KINDS = {
    "like minnie65": Kind("compressed_segmentation", ((8, 8, 40), (16, 16, 40))),
    "finer": Kind("raw", ((4, 4, 40),)),
    "coarser": Kind("compressed_segmentation", ((32, 32, 40),)),
}


def write_segmentation(folder: Path, kind: Kind, *, gzip: bool = True) -> str:
    """Write it over all of the formula volume but its last fifth along x."""
    extent = SIZE_NM * (0.8, 1, 1)
    info = CloudVolume.create_new_info(
        num_channels=1,
        layer_type="segmentation",
        data_type="uint64",
        encoding=kind.encoding,
        resolution=list(kind.resolutions[0]),
        voxel_offset=(OFFSET_NM // kind.resolutions[0]).tolist(),
        volume_size=(extent // kind.resolutions[0]).astype(int).tolist(),
        chunk_size=list(kind.chunk),
    )
    for resolution in kind.resolutions[1:]:
        spec = {**info["scales"][0], "resolution": list(resolution)}
        spec["key"] = "_".join(map(str, resolution))
        spec["voxel_offset"] = (OFFSET_NM // resolution).tolist()
        spec["size"] = (extent // resolution).astype(int).tolist()
        info["scales"].append(spec)
    for mip, resolution in enumerate(kind.resolutions):
        volume = CloudVolume(f"file://{folder}", mip=mip, info=info, progress=False, compress=gzip)
        volume.commit_info()
        size = np.array(resolution)
        volume[:] = segments(OFFSET_NM, size, (extent // size).astype(int))[..., None]
    return str(folder)


def with_masks(job: Any, path: str) -> Any:
    """Make the neurons of a job's synapses those of the segmentation."""
    for side in ("pre", "post"):
        places = [
            job.synapses[f"{side}_pt_position_{axis}"] * size
            for axis, size in zip("xyz", (4, 4, 40), strict=True)
        ]
        job.synapses[f"{side}_pt_root_id"] = segment(*places).astype(np.int64)
    job.config["volume"]["segmentation"] = path
    job.config["samples"]["channels"] = ["em", "pre", "post"]
    job.config["splits"]["by"] = "block"  # neurons here are of both classes
    job.config["splits"]["block_um"] = 0.3
    return job


def cut(job: Any) -> Path:
    out: Path = job.folder / "out"
    plan_dataset(load_job(job.write()), out)
    run_dataset(out, scheduler="threads", num_workers=1, task=Task(index=0, count=1))
    return out


@pytest.mark.parametrize("name", KINDS)
def test_masks_are_of_the_two_partners(make_job: Any, tmp_path: Path, name: str) -> None:
    kind = KINDS[name]
    views = {"cube": {"size": [16, 16, 8]}, "patch": {"size": [24, 25]}}
    job = with_masks(make_job(views=views), write_segmentation(tmp_path / "seg", kind))
    out = cut(job)
    samples = pd.concat([read_table(Layout(out).block(block)) for block in range(4)])
    assert (samples.reason == "").all()
    group = zarr.open_group(out / "samples.zarr", mode="r")
    fits = [np.array(r) for r in kind.resolutions if np.all(np.array(r) <= (8, 8, 40))]
    theirs = fits[-1] if fits else np.array(kind.resolutions[0])
    edge = OFFSET_NM + (SIZE_NM * (0.8, 1, 1) // theirs) * theirs
    seen = 0
    for sample in samples.itertuples():
        center = np.array([sample.center_x_nm, sample.center_y_nm, sample.center_z_nm])
        for view, size in (("cube", (16, 16, 8)), ("patch", (24, 25, 1))):
            voxel = np.array([8, 8, 40])
            start = (center // voxel - np.array(size) // 2) * voxel
            axes = [
                s + (np.arange(n) + 0.5) * v for s, v, n in zip(start, voxel, size, strict=True)
            ]
            # A voxel of the mask is the segmentation's voxel at its centre.
            at = [a // t * t + t / 2 for a, t in zip(axes, theirs, strict=True)]
            ids = np.where(np.ix_(*axes)[0] < edge[0], segment(*np.ix_(*at)), 0).transpose(2, 1, 0)
            found = np.asarray(group[view][sample.row]).reshape(3, *size[::-1])
            for channel, root in ((1, sample.pre_root_id), (2, sample.post_root_id)):
                expected = np.where((ids == root) & (root != 0), 255, 0)
                np.testing.assert_array_equal(found[channel], expected)
                seen += int(expected.any())
    assert seen > len(samples)
    flagged = samples.qc_flags.str.contains("empty_mask")
    empty = [
        not np.asarray(group["cube"][row])[1:].any(axis=(1, 2, 3)).all() for row in samples.row
    ]
    empty_patch = [
        not np.asarray(group["patch"][row])[1:].any(axis=(1, 2)).all() for row in samples.row
    ]
    assert flagged.tolist() == [a or b for a, b in zip(empty, empty_patch, strict=True)]
    assert 0 < flagged.sum() < len(samples)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("window_bytes", [100_000, 1 << 27])
def test_reading_is_as_planned(
    make_job: Any, tmp_path: Path, name: str, window_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests and bytes; with little memory, chunks are read once for a few samples."""
    monkeypatch.setattr(ingest.volume.masks, "WINDOW_BYTES", window_bytes)
    seg = tmp_path / "seg"
    write_segmentation(seg, KINDS[name], gzip=False)  # no NAME.gz, which servers do not have
    views = {"cube": {"size": [16, 16, 8]}, "patch": {"size": [24, 25]}}
    with FileServer(folder=seg) as server:
        job = with_masks(make_job(views=views), server.url)
        document, _ = plan_dataset(load_job(job.write()), job.folder / "out")
        layout = Layout(job.folder / "out")
        opened = Opened(read_plan(layout))
        for block in range(document.num_blocks):
            execute(layout, opened, block)
        counts = opened.segmentation(0).counts
    predicted = document.prediction.masks["0"]
    assert predicted.measured
    assert counts["requests"] == pytest.approx(predicted.requests, rel=0.05)
    assert counts["bytes"] == pytest.approx(predicted.bytes, rel=0.05)
    if window_bytes == 1 << 27:
        assert counts["requests"] == predicted.requests


def test_cloudvolume_reads_the_same(tmp_path: Path) -> None:
    path = write_segmentation(tmp_path / "seg", KINDS["like minnie65"])
    chunks = sorted((tmp_path / "seg" / "16_16_40").iterdir())
    chunks[len(chunks) // 2].unlink()
    info = fetch_info(path)
    reader = precomputed_volume(Fetcher(path), info, 1, layer="segmentation")
    bounds = reader.scale.grid.bounds
    ours = reader.read(bounds)
    theirs = CloudVolumeReader(path, info, 1, layer="segmentation").read(bounds)
    np.testing.assert_array_equal(ours, theirs)
    assert (ours > ROOT).any()


def test_a_chunk_that_is_not_stored_holds_no_neuron(make_job: Any, tmp_path: Path) -> None:
    path = write_segmentation(tmp_path / "seg", KINDS["like minnie65"])
    for number, chunk in enumerate(sorted((tmp_path / "seg" / "8_8_40").iterdir())):
        if number % 3 == 0:
            chunk.unlink()
    job = with_masks(make_job(), path)
    job.config["samples"]["codec"] = "zstd"
    out = cut(job)
    assert finish_dataset(out).views["cube"].channels == ("em", "pre", "post")
    samples = read_table(out / "samples.parquet")
    assert read_table(out / "rejects.parquet").empty
    assert samples.qc_flags.str.contains("empty_mask").sum() > 10
    tiffs = tmp_path / "tiffs"
    export_tiff(out, tiffs, "cube")
    array: Any = zarr.open_group(out / "samples.zarr", mode="r")["cube"]
    assert array.nbytes_stored() < 0.6 * array.nbytes * len(samples) / array.shape[0]
    for sample in samples.itertuples():
        stored = np.asarray(array[sample.row])
        np.testing.assert_array_equal(read_image(tiffs / f"{sample.key}.tif", stored.shape), stored)


def test_a_segmentation_of_another_version_is_refused(make_job: Any, tmp_path: Path) -> None:
    job = with_masks(make_job(), write_segmentation(tmp_path / "seg", KINDS["like minnie65"]))
    job.synapses[["pre_pt_root_id", "post_pt_root_id"]] += 1000
    out = job.folder / "out"
    plan_dataset(load_job(job.write()), out)
    with pytest.raises(ValueError, match=r"seg: 8 of 8 samples .* nothing in .*materialization"):
        run_dataset(out, scheduler="threads", num_workers=1, task=Task(index=0, count=1))


def test_three_channels_go_all_the_way(make_job: Any, tmp_path: Path) -> None:
    segmentation = write_segmentation(tmp_path / "seg", KINDS["coarser"])
    out = cut(with_masks(make_job(views={"cube": {"size": [16, 16, 4]}}), segmentation))
    finish_dataset(out)
    url, run = str(tmp_path / "shards"), tmp_path / "run"
    manifest = pack(out, "cube", url, PackOptions())
    assert manifest.image.channels == ("em", "pre", "post")
    stored: Any = zarr.open_group(out / "samples.zarr", mode="r")["cube"]
    rows = read_table(out / "samples.parquet").set_index("key").row
    with (
        open_shards(url) as shards,
        Stream(shards, "train", batch_size=2, order=OrderSpec(), epochs=1) as stream,
    ):
        for batch in stream:
            keys = shards.index("train").column("key")[batch.rows]
            for key, image in zip(keys, batch.images, strict=True):
                np.testing.assert_array_equal(image, stored[rows[key]])
    tiny = ["unet3d_small", "--width", "2", "--epochs", "1", "--batch-size", "2", "--threads", "1"]
    crop = ["--crop", "4", "16", "16", "--memory-format", "contiguous"]
    trainer_main([*tiny, *crop, "--data", url, "--out", str(run)])
    trainer_main(["predict", str(run), "--split", "val", "test"])
    eval_main([str(run)])
    assert "data:image/webp" in (run / "report.html").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"volume": {"segmentation": None}}, "add volume.segmentation, of the tables' version"),
        ({"samples": {"channels": ["pre", "em"]}}, "channels must be em, then pre, post or both"),
        ({"synapses": {"columns": {"post_root_id": None}}}, "needs synapses.columns.post_root_id"),
    ],
)
def test_a_job_for_masks_that_cannot_be(
    make_job: Any, change: dict[str, dict[str, Any]], message: str
) -> None:
    job = with_masks(make_job(), "seg")
    for part, values in change.items():
        job.config[part] |= values
    with pytest.raises(ValueError, match=message):
        load_job(job.write())


def test_em_is_no_segmentation(make_job: Any, formula_volumes: dict[str, Path]) -> None:
    job = with_masks(make_job(), str(formula_volumes["plain"]))
    with pytest.raises(ValueError, match=r"expected uint64 or uint32; .* flat segm"):
        plan_dataset(load_job(job.write()), job.folder / "out")
