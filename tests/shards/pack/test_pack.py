"""Packing: every voxel, every byte, whatever the workers."""

import gc
import json
import multiprocessing
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from shards.contract.sample_store import open_store
from shards.contract.schema import VIEWS, ImageSpec, View
from shards.pack.assign import PackOptions
from shards.pack.tar import header
from shards.pack.write_shards import pack
from shards.storage.atomic import sha256_of_file
from shards.stream.shardset import open_shards

pytestmark = pytest.mark.timeout(120)
Packed = Callable[[View], Path]
Formula = Callable[[ImageSpec, int], np.ndarray]
Digests = Callable[[Path], dict[str, str]]
OPTIONS = PackOptions(samples_per_shard=16)
GOLDEN = {
    "patch": "2a49bd80ace9cc482c2862d42bdebe4972a25dd505ecb45c06ec4acfc0491e27",
    "cube": "2f79c843a4a84dfc76ad40a29b5e04d520c1c3f23171f42f2f994cdf6b31e9ef",
}


@pytest.mark.parametrize("view", VIEWS)
def test_every_voxel_and_identity_comes_back(
    store: Path, packed: Packed, image_of: Formula, view: View
) -> None:
    samples = {row["key"]: row for row in open_store(store).samples.to_pylist()}
    seen = set()
    with open_shards(str(packed(view))) as shards:
        for split in shards.manifest.splits:
            images = shards.read_images(split, range(len(shards.index(split))))
            for row, image in zip(shards.index(split).table.to_pylist(), images, strict=True):
                sample = samples[row["key"]]
                np.testing.assert_array_equal(image, image_of(shards.manifest.image, sample["row"]))
                assert sample["split"] == split
                assert row["pre_root_id"] == sample["pre_root_id"]
                assert row["label"] == sample["label"]
                seen.add(row["key"])
    assert seen == {key for key, row in samples.items() if row["label"] >= 0}


@pytest.mark.filterwarnings("ignore:unclosed file")  # webdataset leaves its files to the collector
@pytest.mark.parametrize("view", VIEWS)
def test_webdataset_and_tar_read_the_shards(packed: Packed, view: View) -> None:
    with open_shards(str(packed(view))) as shards:
        index = shards.index("train")
        images = shards.read_images("train", range(len(index)))
        keys = index.column("key").tolist()
    urls = [str(packed(view) / shard.name) for shard in index.shards]
    read: Iterable[Any] = webdataset.WebDataset(urls, shardshuffle=False).decode()
    found = {sample["__key__"]: sample for sample in read}
    gc.collect()
    assert list(found) == keys
    for row, key in enumerate(keys):
        np.testing.assert_array_equal(found[key]["image.npy"], images[row])
        assert found[key]["cls"] == index.label[row]
        assert found[key]["json"]["neuron_id"] == index.neuron_id[row]
    listed = subprocess.run(["tar", "-tvf", urls[0]], capture_output=True, text=True, check=True)
    names = [line.split()[-1] for line in listed.stdout.splitlines()]
    assert names[:3] == [f"{keys[0]}.image.npy", f"{keys[0]}.cls", f"{keys[0]}.json"]
    assert all(line.startswith("-r--r--r-- 0/0") for line in listed.stdout.splitlines())
    with tarfile.open(urls[0]) as tar:
        assert {member.mtime for member in tar} == {0}


@given(name=st.text("abz09_-./", min_size=1, max_size=100), size=st.integers(0, 8**11 - 1))
def test_tar_headers_are_those_of_tarfile(name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o444
    assert header(name, size) == info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


def test_names_that_do_not_fit_a_header_are_refused() -> None:
    with pytest.raises(ValueError, match="does not fit a tar header"):
        header("x" * 101, 1)


def test_mean_and_std_are_those_of_the_training_voxels(packed: Packed) -> None:
    for view in VIEWS:
        with open_shards(str(packed(view))) as shards:
            images = shards.read_images("train", range(len(shards.index("train"))))
            axes = tuple(axis for axis in range(images.ndim) if axis != 1)
            np.testing.assert_allclose(shards.manifest.mean, images.mean(axes), rtol=1e-14)
            np.testing.assert_allclose(shards.manifest.std, images.std(axes), rtol=1e-12)


def test_shards_of_a_split_are_alike(packed: Packed) -> None:
    with open_shards(str(packed("patch"))) as shards:
        for info in shards.manifest.splits.values():
            for name in shards.manifest.class_names:
                counts = [shard.class_counts[name] for shard in info.shards]
                assert max(counts) - min(counts) <= 1
            sizes = [shard.num_samples for shard in info.shards]
            assert max(sizes) - min(sizes) <= 1
            assert max(sizes) <= 16


def test_what_is_left_out_is_counted(store: Path, tmp_path: Path) -> None:
    samples = open_store(store).samples.to_pandas()
    unlabelled, blurred = samples["label"] < 0, samples["qc_flags"] == "blurred"
    assert unlabelled.any()
    assert blurred.any()
    options = PackOptions(samples_per_shard=16, exclude_flags=("blurred",))
    manifest = pack(store, "patch", str(tmp_path / "a"), options)
    packed = sum(info.num_samples for info in manifest.splits.values())
    assert packed == len(samples) - int((unlabelled | blurred).sum())
    assert sum(manifest.pack.left_out.values()) == len(samples) - packed
    kept = pack(store, "patch", str(tmp_path / "b"), PackOptions(unlabelled="keep"))
    assert sum(info.num_samples for info in kept.splits.values()) == len(samples)
    assert kept.splits["train"].class_counts["unlabelled"] > 0


@pytest.mark.parametrize("engine", [(1, "threads"), (2, "processes")])
def test_bytes_do_not_depend_on_workers(
    store: Path, packed: Packed, tmp_path: Path, digests: Digests, engine: tuple[int, str]
) -> None:
    workers, scheduler = engine
    pack(store, "cube", str(tmp_path / "out"), OPTIONS, workers=workers, scheduler=scheduler)
    assert digests(tmp_path / "out") == digests(packed("cube"))


@pytest.mark.parametrize("view", VIEWS)
def test_bytes_do_not_change_between_versions(packed: Packed, view: View) -> None:
    assert sha256_of_file(packed(view) / "train-000000.tar") == GOLDEN[view]


def test_finished_shards_are_verified_and_kept(
    store: Path, altered: Path, packed: Packed, digests: Digests
) -> None:
    (altered / "manifest.json").unlink()
    damaged, missing = altered / "train-000000.tar", altered / "train-000001.tar"
    damaged.write_bytes(b"x" * damaged.stat().st_size)
    missing.unlink()
    kept = {path: path.stat().st_mtime_ns for path in altered.iterdir() if path != damaged}
    pack(store, "cube", str(altered), OPTIONS)
    assert digests(altered) == digests(packed("cube"))
    for path, changed in kept.items():
        if path.stem.split(".")[0] not in ("train-000000", "train-000001"):
            assert path.stat().st_mtime_ns == changed


def test_another_packing_is_refused(store: Path, altered: Path) -> None:
    with pytest.raises(ValueError, match="belongs to another packing"):
        pack(store, "cube", str(altered), PackOptions(samples_per_shard=16, seed=1))


def test_a_key_that_cannot_name_a_member_is_refused(
    tmp_path: Path, store_maker: Callable[..., None]
) -> None:
    from shards.contract.sample_store import write_samples

    store_maker(tmp_path, 20, 8)
    frame = open_store(tmp_path).samples.to_pandas()
    frame.loc[3, "key"] = "a/b.c"
    write_samples(tmp_path, frame)
    with pytest.raises(ValueError, match=r"key 'a/b.c' has other characters"):
        pack(tmp_path, "cube", str(tmp_path / "out"), OPTIONS)


def test_a_view_that_the_store_has_not_is_refused(
    tmp_path: Path, store_maker: Callable[..., None]
) -> None:
    store_maker(tmp_path, 20, 8)
    description = tmp_path / "dataset.json"
    content = json.loads(description.read_text())
    del content["views"]["cube"], content["document_sha256"]
    description.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="holds no cube images, only patch"):
        pack(tmp_path, "cube", str(tmp_path / "out"), OPTIONS)


@pytest.mark.timeout(240)
def test_killed_at_ten_moments_and_run_again(tmp_path: Path, store: Path, digests: Digests) -> None:
    """SIGKILL a packing process ten times, each time after a few more files; once with workers."""
    options = PackOptions(samples_per_shard=4)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    pack(store, "patch", str(whole), options)
    server = multiprocessing.get_context("forkserver")  # has imported already: children start fast
    server.set_forkserver_preload(["shards.pack.write_shards"])
    rng = np.random.default_rng()
    for attempt in range(10):
        process = server.Process(
            target=pack,
            args=(store, "patch", str(killed), options),
            kwargs={"scheduler": "processes" if attempt == 5 else "threads"},
        )
        process.start()
        _kill_after(process, killed, num_new_files=int(rng.integers(0, 8)))
    pack(store, "patch", str(killed), options)
    assert digests(killed) == digests(whole)


def _kill_after(process: BaseProcess, folder: Path, num_new_files: int) -> None:
    def count() -> int:
        return len(list(folder.iterdir())) if folder.is_dir() else 0

    start = count()
    while process.is_alive() and count() < start + num_new_files:
        time.sleep(0.002)
    process.kill()
    process.join()
