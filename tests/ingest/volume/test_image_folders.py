"""Images that exist already: a folder of TIFF cubes with a table, and folders that say it all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import yaml
import zarr
from PIL import Image as Picture

from ingest.dataset import read_table
from ingest.job.job_file import load_job
from ingest.plan.make import plan_dataset
from ingest.qc.describe_dataset import inspect_lines
from ingest.run.blocks import Task, run_dataset
from ingest.run.finish import finish_dataset
from ingest.volume.files.image_files import read_image
from shards.images.gray import ImageError
from tests.conftest import REPOSITORY

CONFIGS = REPOSITORY / "ingest" / "configs"
SHAPE = (5, 12, 16)


def make(config: Path, out: Path) -> Path:
    plan_dataset(load_job(config), out)
    run(out)
    finish_dataset(out)
    return out


def run(out: Path) -> None:
    run_dataset(out, scheduler="threads", num_workers=1, task=Task(index=0, count=1))


def by_id(out: Path, view: str) -> tuple[pd.DataFrame, dict[int, np.ndarray]]:
    samples = read_table(out / "samples.parquet")
    array: Any = zarr.open_group(out / "samples.zarr", mode="r")[view]
    return samples, {s.synapse_id: np.asarray(array[s.row]) for s in samples.itertuples()}


def job_from(name: str, folder: Path, changes: Callable[[dict[str, Any]], object]) -> Path:
    """A ready job with its paths replaced by folders here, and what else `changes` changes."""
    text = (CONFIGS / name).read_text()
    config = yaml.safe_load(text)
    changes(config)
    path = folder / name
    path.write_text(yaml.safe_dump(config))
    return path


def cube(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, SHAPE, dtype=np.uint8)


@pytest.fixture
def cubes(tmp_path: Path) -> Path:
    """Forty cubes of ten neurons, with their table."""
    folder = tmp_path / "cubes"
    folder.mkdir()
    ids = 100 + np.arange(40)
    for number in ids:
        tifffile.imwrite(folder / f"{number}.tif", cube(number), photometric="minisblack")
    neuron = 7 + np.arange(40) // 4
    labels = np.where(neuron % 2, "excitatory", "inhibitory")
    table = pd.DataFrame({"synapse_id": ids, "neuron_id": neuron, "label": labels})
    table.to_csv(folder / "labels.csv", index=False)
    return folder


def plain_table(config: dict[str, Any]) -> None:
    """Set what the table of `cubes` does not have to null."""
    config["synapses"]["columns"] |= {"ctr": None, "size": None}
    config["samples"]["views"]["cube"]["size"] = list(SHAPE[::-1])
    config["splits"] = {"by": "neuron", "fractions": {"train": 0.6, "val": 0.2, "test": 0.2}}


def test_a_folder_of_cubes(cubes: Path) -> None:
    out = make(job_from("tiff_folder.yaml", cubes.parent, plain_table), cubes.parent / "out")
    samples, images = by_id(out, "cube")
    assert all((images[number][0] == cube(number)).all() for number in range(100, 140))
    assert (samples.neuron_id == 7 + (samples.synapse_id - 100) // 4).all()
    assert (samples.label == samples.neuron_id % 2).all()
    assert samples.groupby("neuron_id").split.nunique().max() == 1
    text = "\n".join(inspect_lines(out))
    assert "40 samples of unknown place: whether splits overlap is unknown" in text
    assert "neurons" in text
    assert "unknown neurons" not in text
    assert not (out / "qc" / "positions.png").exists()


def write_tree(root: Path) -> None:
    for number in range(60):
        split = "train", "val", "test"
        folder = root / split[number % 3] / ("excitatory", "inhibitory")[number // 3 % 2]
        folder.mkdir(parents=True, exist_ok=True)
        name = f"a {number}.png" if number % 2 else f"b {number}.tif"
        Picture.fromarray(cube(number)[0]).save(folder / name)


def test_folders_of_splits_and_classes(tmp_path: Path) -> None:
    write_tree(tmp_path / "images")
    job = job_from(
        "image_folder.yaml",
        tmp_path,
        lambda config: config["samples"].update(views={"patch": {"size": list(SHAPE[:0:-1])}}),
    )
    out = make(job, tmp_path / "out")
    samples, images = by_id(out, "patch")
    assert len(samples) == 60
    for sample in samples.itertuples():
        split, label, stem = sample.key.split("-", maxsplit=2)
        assert (split, label) == (sample.split, ("inhibitory", "excitatory")[sample.label])
        number = int(stem.split("-")[1])
        assert (images[sample.synapse_id][0] == cube(number)[0]).all()
    assert (samples.neuron_id == 0).all()
    assert samples.center_x_nm.isna().all()
    text = "\n".join(inspect_lines(out))
    assert "60 samples of unknown neuron: whether splits share neurons is unknown" in text
    assert "train: inhibitory 10, excitatory 10 of unknown neurons" in text


def test_a_tree_of_jpegs_and_upper_case_names(tmp_path: Path) -> None:
    write_tree(tmp_path / "images")
    for path in sorted((tmp_path / "images").rglob("*.png"))[:3]:
        Picture.open(path).save(path.with_suffix(".JPG"), "jpeg")
        path.unlink()
        (path.parent / f"._{path.name}").write_bytes(b"\0\5\x16\7")
    job = job_from(
        "image_folder.yaml",
        tmp_path,
        lambda config: config["samples"].update(views={"patch": {"size": list(SHAPE[:0:-1])}}),
    )
    plan_dataset(load_job(job), tmp_path / "out")
    assert len(read_table(tmp_path / "out" / "plan.parquet")) == 60


def test_two_files_of_one_id(cubes: Path) -> None:
    Picture.fromarray(cube(1)[0]).save(cubes / "103.png")
    config = job_from("tiff_folder.yaml", cubes.parent, plain_table)
    with pytest.raises(ValueError, match=r"103.png and 103.tif are both named by one id"):
        plan_dataset(load_job(config), cubes.parent / "out")


def broken(folder: Path) -> dict[str, str]:
    """Files that cannot be used, with the reason of each."""
    good = cube(1)
    tifffile.imwrite(folder / "whole.tif", good)
    Picture.fromarray(good[0]).save(folder / "section.png")
    (folder / "cut.tif").write_bytes((folder / "whole.tif").read_bytes()[:900])
    tifffile.imwrite(folder / "cut_imagej.tif", good, imagej=True, metadata={"axes": "ZYX"})
    (folder / "cut_imagej.tif").write_bytes((folder / "cut_imagej.tif").read_bytes()[:900])
    (folder / "cut.png").write_bytes((folder / "section.png").read_bytes()[:150])
    (folder / "text.tif").write_text("no picture")
    (folder / "empty.png").write_bytes(b"")
    tifffile.imwrite(folder / "deep.tif", good.astype(np.uint16), photometric="minisblack")
    tifffile.imwrite(folder / "thin.tif", good[:3], photometric="minisblack")
    tifffile.imwrite(folder / "colour.tif", good[:3].transpose(1, 2, 0), photometric="rgb")
    tifffile.imwrite(folder / "flat.tif", np.full(SHAPE, 9, np.uint8), photometric="minisblack")
    Picture.fromarray(good[0]).convert("RGB").save(folder / "colour.png")
    return {
        "cut.tif": "truncated",
        "cut_imagej.tif": "truncated",
        "cut.png": "unreadable",
        "text.tif": "unreadable",
        "empty.png": "unreadable",
        "deep.tif": "wrong_dtype",
        "thin.tif": "wrong_shape",
        "colour.tif": "color",
        "flat.tif": "constant",
        "colour.png": "color",
        "section.png": "wrong_shape",
        "gone.tif": "no_file",
    }


def reason_of(path: Path) -> str:
    try:
        read_image(path, (1, *SHAPE))
    except ImageError as error:
        return error.reason
    return ""


def test_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    for name, reason in broken(tmp_path).items():
        assert reason_of(tmp_path / name) == reason, name
    assert (read_image(tmp_path / "whole.tif", (1, *SHAPE))[0] == cube(1)).all()


def test_few_bad_files_are_rejected_and_many_end_the_job(cubes: Path) -> None:
    config = job_from("tiff_folder.yaml", cubes.parent, plain_table)
    (cubes / "103.tif").write_bytes(b"II*\0")
    tifffile.imwrite(cubes / "111.tif", np.ones((2, 3), np.uint8))
    (cubes / "117.tif").unlink()
    out = make(config, cubes.parent / "out")
    rejects = read_table(out / "rejects.parquet").set_index("synapse_id").reason
    assert rejects.to_dict() == {103: "unreadable", 111: "wrong_shape", 117: "no_file"}
    assert "3          37  image file that cannot be used" in "\n".join(inspect_lines(out))
    for number in range(120, 128):
        tifffile.imwrite(cubes / f"{number}.tif", np.zeros(SHAPE, np.uint8))
    counts = r"29 valid images of 40 \(constant: 8, unreadable: 1, wrong_shape: 1, no_file: 1\)"
    with pytest.raises(ValueError, match=rf"{counts}; first 103.tif, 111.tif, 117.tif, 120.tif, 1"):
        plan_dataset(load_job(config), cubes.parent / "other")
    assert not (cubes.parent / "other").exists()
    for path in cubes.glob("*.tif"):
        path.write_text("")
    with pytest.raises(ValueError, match=r"0 valid images of 40 \(unreadable: 39, no_file: 1\)"):
        plan_dataset(load_job(config), cubes.parent / "other")
    (out / "blocks" / "000000.parquet").unlink()
    with pytest.raises(ValueError, match="the volume changed since the plan"):
        run(out)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"splits": {"by": "position"}}, "images lie in no volume: split them by"),
        ({"volume": {"path": "x", "format": "images"}}, "no voxel size; add `voxel_size_nm"),
        ({"samples": {"views": {"patch": {"size": [8, 8]}, "cube": {"size": [8, 8, 4]}}}}, "one"),
        ({"splits": {"by": "column", "column": "fold"}}, "no column fold; it has synapse_id"),
        ({"splits": {"by": "column", "column": "neuron_id"}}, "40 samples are in no known split"),
        ({"synapses": {"path": "nowhere"}}, "nowhere: no such table"),
    ],
)
def test_a_job_that_cannot_be(cubes: Path, change: dict[str, Any], message: str) -> None:
    def changes(config: dict[str, Any]) -> None:
        plain_table(config)
        config |= change if "synapses" not in change else {}
        config["synapses"] |= change.get("synapses", {})

    config = job_from("tiff_folder.yaml", cubes.parent, changes)
    with pytest.raises(ValueError, match=message):
        make(config, cubes.parent / "out")
    assert not (cubes.parent / "out").exists()


def test_folders_without_images(tmp_path: Path) -> None:
    (tmp_path / "images" / "train").mkdir(parents=True)
    config = job_from("image_folder.yaml", tmp_path, lambda _: None)
    with pytest.raises(ValueError, match=r"images: 0 valid images; expected SPLIT/CLASS/"):
        plan_dataset(load_job(config), tmp_path / "out")
