"""Stacks of TIFF sections: any way of storing them gives the same voxels, or is named."""

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from ingest.dataset import read_table
from ingest.job.image_config import VolumeConfig
from ingest.job.job_file import load_job
from ingest.plan.make import plan_dataset
from ingest.run.blocks import Task, run_dataset
from ingest.run.finish import finish_dataset
from ingest.volume.files.section_numbers import in_order
from ingest.volume.geometry import Box
from ingest.volume.open import load_scale, open_volume, volume_identity
from ingest.volume.scale import MissingDataError
from shards.images.decode import read_image_file
from shards.images.gray import ImageError
from tests.shards.images.image_files import RIGHT, STACK, formula, imagej, tiff, two_series

VOXEL_NM = (40.0, 8.0, 8.0)
GRAY_STACKS = {
    name: (make, image[0])
    for name, (make, image) in RIGHT.items()
    if image.ndim == 4 and len(image) == 1 and "PNG" not in name
}


def volume_of(path: Path, **options: Any) -> VolumeConfig:
    return VolumeConfig(path=str(path), format="tiff", voxel_size_nm=VOXEL_NM, **options)


def all_voxels(config: VolumeConfig) -> np.ndarray:
    """Every voxel of a volume (z, y, x), read in boxes of two sections, the last ones first."""
    volume_identity(config, saved=True)
    shape = load_scale(config, 0, saved=True).grid.bounds.shape
    out = np.zeros(shape, np.uint8)
    with closing(open_volume(config, 0, concurrency=1)) as volume:
        for z in range(shape[0] - 1, -1, -2):
            low = max(0, z - 1)
            out[low : z + 1] = volume.read(Box((low, 0, 0), (z + 1, *shape[1:])))[0]
    return out


@pytest.mark.parametrize("name", GRAY_STACKS)
def test_a_stack_is_read_as_it_is_shown(name: str, tmp_path: Path) -> None:
    make, expected = GRAY_STACKS[name]
    (tmp_path / "stack.tif").write_bytes(make())
    np.testing.assert_array_equal(all_voxels(volume_of(tmp_path / "stack.tif")), expected)


WRONG_STACKS: dict[str, tuple[Callable[[], bytes], str]] = {
    "color": (RIGHT["RGB TIFF"][0], "stack.tif: found RGB color, expected gray; convert it"),
    "palette": (RIGHT["palette of color"][0], "stack.tif: found a palette of colors"),
    "two channels": (RIGHT["ImageJ ZC"][0], r"found 2 channels \(axes ZCYX, 5 x 2 x 16 x 24\)"),
    "channels for sections": (lambda: imagej(STACK, "CYX"), "found 5 channels .*stack along z"),
    "16 bits": (lambda: tiff(STACK.astype(np.uint16)), "stack.tif: found 16-bit gray or color"),
    "two series": (two_series, r"stack.tif: found 2 images \(series\) in one file: QYX \(5, 16"),
    "cut": (
        lambda: RIGHT["axes QYX"][0]()[:1100],
        "stack.tif: its header states 5 sections, its list of pages breaks off after 1; it was",
    ),
    "text": (lambda: b"no stack", "stack.tif: 0 valid images: not a readable image"),
}


@pytest.mark.parametrize("name", WRONG_STACKS)
def test_what_is_no_gray_stack_is_named(name: str, tmp_path: Path) -> None:
    make, message = WRONG_STACKS[name]
    (tmp_path / "stack.tif").write_bytes(make())
    with pytest.raises(ValueError, match=message) as error:
        all_voxels(volume_of(tmp_path / "stack.tif"))
    assert str(tmp_path) in str(error.value)


# Folders of sections


def write_sections(folder: Path, names: list[str], **options: Any) -> list[Path]:
    """A folder of sections of the formula under these names, z = 0, 1, …"""
    folder.mkdir(exist_ok=True)
    stack = formula(len(names))
    for name, section in zip(names, stack, strict=True):
        tifffile.imwrite(folder / name, section, **{"photometric": "minisblack", **options})
    return [folder / name for name in names]


IN_ORDER = {
    "padded": [f"sec_{n:03d}.tif" for n in range(12)],
    "not padded": [f"s{n}.tif" for n in range(1, 13)],
    "padded differently": ["s008.tif", "s9.tif", "s10.tif", "s0011.tif"],
    "signs": ["z-2.tif", "z-1.tif", "z0.tif", "z+1.tif", "z+2.tif"],
    "signs, padded": ["sec_-02.tif", "sec_-01.tif", "sec_00.tif", "sec_01.tif"],
    "minus alone": ["-3.tif", "-2.tif", "-1.tif"],
    "minus behind a separator": ["z_-3.tif", "z_-2.tif", "z_-1.tif"],
    "hyphens": ["sec-001.tif", "sec-002.tif", "sec-003.tif"],
    "hyphens between numbers": ["2024-01-05-1.tif", "2024-01-05-2.tif", "2024-01-05-3.tif"],
    "plus": ["z+8.tif", "z+9.tif", "z+10.tif"],
    "other numbers": [f"brain7_sec{n}_8nm.tif" for n in (9, 10, 11)],
    "two numbers that agree": ["s9_1.tif", "s10_2.tif", "s11_3.tif"],
    "time stamps": ["s9_t170.tif", "s10_t189.tif", "s11_t123.tif"],
    "upper case": ["SEC_1.TIF", "sec_2.tif", "Sec_3.TIFF", "sec_4.tiff"],
    "numbers of 40 digits": [f"s{10**39 + n}.tif" for n in range(3)],
    "letters": ["A.tif", "b.tif", "c.tif"],
    "one": ["only.tif"],
    "one, numbered": ["sec_7.tif"],
}


@pytest.mark.parametrize("kind", IN_ORDER)
def test_sections_lie_in_the_order_of_their_numbers(kind: str, tmp_path: Path) -> None:
    paths = write_sections(tmp_path / "sec", IN_ORDER[kind])
    assert list(in_order(sorted(paths)).values()) == paths
    (tmp_path / "sec" / "._sec_000.tif").write_bytes(b"\0\5\x16\7")
    (tmp_path / "sec" / ".hidden.tif").write_bytes(b"")
    (tmp_path / "sec" / "notes.txt").write_text("")
    (tmp_path / "sec" / "thumbs.tif").mkdir()
    found = all_voxels(volume_of(tmp_path / "sec"))
    np.testing.assert_array_equal(found, formula(len(paths)))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["s1.tif", "s2.tif", "s4.tif"], "sec: section 3 is missing: the files are numbered 1 to"),
        (["z-2.tif", "z0.tif", "z1.tif"], "sec: section -1 is missing: the files are numbered -2"),
        ([f"s{10 * n}.tif" for n in range(4)], r"section 1, 2, 3, 4, 5, … is missing"),
        (["s0.tif", f"s{10**30}.tif"], "section 1, 2, 3, 4, 5, … is missing"),
        (["s_1.tif", "s_01.tif", "s_2.tif"], "s_01.tif and s_1.tif are of one section number"),
        (["s_1.tif", "s_1.tiff"], "s_1.tif and s_1.tiff are of one section number"),
        (["s_1.tif", "s_2.tif", "overview.tif"], "differ in more than their numbers"),
        (["s_1.tif", "s_2.tif", "t_3.tif"], "differ in more than their numbers"),
        (["s1_c1.tif", "s1_c2.tif", "s2_c1.tif", "s2_c2.tif"], "2 numbers vary in the names"),
        ([f"a{n}_b{3 - n}.tif" for n in range(4)], r"two numbers .* \(0 and 3 here\): rename the"),
        (["s1_0.tif", "s2_1.tif", "s4_2.tif"], "two numbers in the names could count the sections"),
        (["0_s1.tif", "1_s3.tif", "2_s2.tif"], "two numbers in the names could count the sections"),
        ([], "0 valid TIFF files"),
    ],
)
def test_section_names_that_leave_the_order_open(
    names: list[str], message: str, tmp_path: Path
) -> None:
    write_sections(tmp_path / "sec", names)
    with pytest.raises(ValueError, match=message):
        all_voxels(volume_of(tmp_path / "sec"))


SECTIONS = {
    "size": (lambda: tiff(STACK[0, :8]), r"s3.tif: section of \(8, 24\), but s0.tif has"),
    "dtype": (lambda: tiff(STACK[0].astype(np.uint16)), "s3.tif: found 16-bit"),
    "color": (RIGHT["RGB TIFF"][0], "s3.tif: found RGB color"),
    "several": (RIGHT["axes QYX"][0], r"s3.tif: found 5 sections .*in a folder a file is one"),
    "channels": (RIGHT["ImageJ C"][0], "s3.tif: found 3 channels"),
    "cut": (lambda: tiff(STACK[0])[:-100], "s3.tif: its header states 1 sections, 0 are whole"),
    "empty": (lambda: b"", "s3.tif: 0 valid images: not a readable image"),
}


@pytest.mark.parametrize("kind", SECTIONS)
def test_a_section_unlike_the_others_is_named(kind: str, tmp_path: Path) -> None:
    make, message = SECTIONS[kind]
    write_sections(tmp_path / "sec", [f"s{n}.tif" for n in range(5)])
    (tmp_path / "sec" / "s3.tif").write_bytes(make())
    with pytest.raises(ValueError, match=message):
        all_voxels(volume_of(tmp_path / "sec"))


def test_sections_may_be_stored_in_ways_of_their_own(tmp_path: Path) -> None:
    paths = write_sections(tmp_path / "sec", [f"s{n}.tif" for n in range(6)])
    stack = formula(6)
    tifffile.imwrite(paths[1], ~stack[1], photometric="miniswhite", compression="lzw")
    tifffile.imwrite(paths[2], stack[2].T, photometric="minisblack", metadata={"axes": "XY"})
    tifffile.imwrite(paths[3], stack[3], photometric="minisblack", compression="zstd")
    tifffile.imwrite(paths[4], stack[4], imagej=True)
    np.testing.assert_array_equal(all_voxels(volume_of(tmp_path / "sec")), stack)


def write_ome_set(folder: Path) -> list[Path]:
    """An OME-TIFF of five sections in five files, each of which describes all of them."""
    paths = write_sections(folder, [f"s{n}.ome.tif" for n in range(5)])
    planes = "".join(
        f'<TiffData IFD="0" PlaneCount="1" FirstZ="{z}" FirstT="0" FirstC="0">'
        f'<UUID FileName="{path.name}">urn:uuid:{z:032x}</UUID></TiffData>'
        for z, path in enumerate(paths)
    )
    for z, (path, section) in enumerate(zip(paths, STACK, strict=True)):
        text = (
            '<?xml version="1.0" encoding="UTF-8"?>'
            '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="urn:uuid:{z:032x}"><Image ID="Image:0">'
            '<Pixels ID="Pixels:0" DimensionOrder="XYZTC" Type="uint8" '
            'SizeX="24" SizeY="16" SizeZ="5" SizeT="1" SizeC="1"><Channel ID="Channel:0:0" '
            f'SamplesPerPixel="1"/>{planes}</Pixels></Image></OME>'
        )
        tifffile.imwrite(
            path, section, photometric="minisblack", metadata=None, description=text.encode()
        )
    return paths


def test_an_ome_tiff_in_several_files(tmp_path: Path) -> None:
    paths = write_ome_set(tmp_path / "ome")
    for where in (tmp_path / "ome", paths[0], paths[3]):
        np.testing.assert_array_equal(all_voxels(volume_of(where)), STACK)
        before = volume_identity(volume_of(where), saved=True)
        assert before["files"] == 5
    for source in (paths[0], paths[0].read_bytes()):  # an image of its own is one file
        with pytest.raises(ImageError, match="one file of an OME-TIFF in several"):
            read_image_file(source)
    paths[2].unlink()
    with pytest.raises(ValueError, match="header states 5 sections, 4 are there"):
        all_voxels(volume_of(paths[0]))


# Sections that are missing data


def test_a_missing_section_is_black_and_no_sample_is_about_it(tmp_path: Path) -> None:
    write_sections(tmp_path / "sec", [f"s{n}.tif" for n in range(7)])[3].unlink()
    config = volume_of(tmp_path / "sec", missing="blank")
    assert volume_identity(config, saved=True)["missing_sections"] == [3]
    expected = formula(7)
    expected[3] = 0
    with closing(open_volume(config, 0, concurrency=1)) as volume:
        boxes = [Box((z, 2, 3), (z + 3, 12, 20)) for z in range(5)]
        found = list(volume.read_many(boxes))
        assert [image is None for image in found] == [False, False, True, False, False]
        for box, image in zip(boxes, found, strict=True):
            if image is not None:
                part = expected[box.start[0] : box.stop[0], 2:12, 3:20]
                np.testing.assert_array_equal(image[0], part)
        with pytest.raises(MissingDataError, match="its middle section is missing"):
            volume.read(Box((3, 0, 0), (4, 5, 5)))


def test_a_job_with_missing_sections(make_job: Any, box_voxels: Any, tmp_path: Path) -> None:
    job = make_job("folder")
    folder = tmp_path / "sections"
    shutil.copytree(job.config["volume"]["path"], folder)
    lost = int(job.synapses.ctr_pt_position_z.mode()[0])
    (folder / f"s{lost}.tif").unlink()
    job.config["volume"] |= {"path": str(folder)}
    with pytest.raises(ValueError, match=f"section {lost} is missing: the files are numbered 0 to"):
        plan_dataset(load_job(job.write()), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    job.config["volume"] |= {"missing": "blank"}
    plan_dataset(load_job(job.write()), tmp_path / "out")
    run_dataset(tmp_path / "out", scheduler="threads", num_workers=1, task=Task(index=0, count=1))
    finish_dataset(tmp_path / "out")
    z = job.synapses.set_index("id").ctr_pt_position_z
    rejects = read_table(tmp_path / "out" / "rejects.parquet").set_index("synapse_id").reason
    assert set(rejects.index) == set(z[z == lost].index)
    assert set(rejects) == {"missing_data"}
    array: Any = zarr.open_group(tmp_path / "out" / "samples.zarr", mode="r")["cube"]
    flagged = 0
    for sample in read_table(tmp_path / "out" / "samples.parquet").itertuples():
        start = round(sample.center_z_nm / 40) - 4  # the first of eight sections
        black = np.arange(start, start + 8) == lost
        cube = np.asarray(array[sample.row])[0]
        assert ((cube == 0).all(axis=(1, 2)) == black).all()
        assert ("missing_sections" in sample.qc_flags) == black.any()
        flagged += black.any()
    assert flagged
