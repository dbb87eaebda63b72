"""Which channels are EM: on every kind of shard set they change, and masks keep their values."""

import io
import tarfile
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from shards.images.channels import em_channels
from shards.pack.import_webdataset import ForeignSpec, index_tars
from shards.stream.shardset import open_shards
from tests.trainer.conftest import write_shards
from trainer.augment.spatial import augment_batch
from trainer.augment.stress import STRESSES, stressed
from trainer.config import SECTIONS, Augment
from trainer.recipes import RECIPES

GRAY = [item.name for item in fields(Augment) if item.name != "misalign_vx"]
GEOMETRY = ("flip", "turn", "shift_vx", "rotate", "scale", "elastic_vx")
SIDE, COUNT = 32, 8
AMOUNTS: dict[str, float] = {"shift_vx": 8, "rotate": 20.0, "elastic_vx": 2.0, "flip": 1, "turn": 1}


def encoded(array: np.ndarray, kind: str) -> bytes:
    """An image (c, [z], y, x) as a file."""
    file = io.BytesIO()
    if kind == "npy":
        np.save(file, array)
    elif kind == "tif":
        tifffile.imwrite(file, array[0], photometric="minisblack")
    else:
        Image.fromarray(np.moveaxis(array, 0, -1).squeeze()).save(file, kind)
    return file.getvalue()


def indexed(folder: Path, kind: str, shape: tuple[int, ...]) -> str:
    """A shard set that `index` made of files that others wrote."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    with tarfile.open(folder / "train-0.tar", "w") as tar:
        for number in range(COUNT):
            image = rng.integers(20, 230, shape, dtype=np.uint8)
            for suffix, data in ((kind, encoded(image, kind)), ("cls", b"%d" % (number % 2))):
                member = tarfile.TarInfo(f"s{number}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    index_tars(str(folder), ForeignSpec(class_names=("inhibitory", "excitatory")))
    return str(folder)


PACKED = {
    "packed patch": ((1, SIDE, SIDE), ("em",)),
    "packed cube": ((1, 8, SIDE, SIDE), ("em",)),
    "packed with masks": ((3, 8, SIDE, SIDE), ("em", "pre", "post")),
    "packed, EM last": ((2, SIDE, SIDE), ("post", "em_8nm")),
    "packed, other names": ((2, 8, SIDE, SIDE), ("raw", "membrane mask")),
}
INDEXED = {
    "png": ("png", (1, SIDE, SIDE)),
    "png color": ("png", (3, SIDE, SIDE)),
    "tiff": ("tif", (1, SIDE, SIDE)),
    "tiff stack": ("tif", (1, 8, SIDE, SIDE)),
    "npy": ("npy", (2, SIDE, SIDE)),
    "npy cube": ("npy", (1, 8, SIDE, SIDE)),
}


@pytest.fixture(scope="session", params=[*PACKED, *INDEXED])
def images(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Images (b, c, [z], y, x) of every kind of shard set, and the names of their channels."""
    folder, kind = tmp_path_factory.mktemp("sets"), request.param
    if kind in PACKED:
        shape, names = PACKED[kind]
        view = "patch" if len(shape) == 3 else "cube"
        counts = {"train": COUNT}
        url = write_shards(folder, view, shape=shape, channels=names, counts=counts)
    else:
        url = indexed(folder / "set", *INDEXED[kind])
    with open_shards(url) as shards:
        x = torch.from_numpy(shards.read_images("train", np.arange(COUNT)))
        return x, shards.manifest.image.channels


def check(before: torch.Tensor, after: torch.Tensor, em: tuple[int, ...]) -> None:
    """EM of most samples changed, and no mask."""
    assert em
    masks = [c for c in range(before.shape[1]) if c not in em]
    assert torch.equal(after[:, masks].float(), before[:, masks].float())
    for channel in em:
        same = (after[:, channel].float() == before[:, channel].float()).flatten(1).all(dim=1)
        assert same.sum() <= COUNT // 2


@pytest.mark.parametrize("name", GRAY)
def test_every_augmentation_changes_every_kind_of_set(
    images: tuple[torch.Tensor, tuple[str, ...]], name: str
) -> None:
    x, channels = images
    if name in SECTIONS and x.ndim == 4:
        pytest.skip("a patch has no sections")
    amount = AMOUNTS.get(name, 1.0 if name.endswith("_p") else 0.3)
    augment = Augment(**{"flip": False, "turn": False, name: amount})
    crop = (*x.shape[2:-2], 16, 16)
    em, rows = em_channels(channels), np.arange(COUNT)
    after = augment_batch(x, rows, augment, crop=crop, seed=1, epoch=0, em=em)
    still = Augment(flip=False, turn=False)
    before = augment_batch(x, rows, still, crop=crop, seed=1, epoch=0, em=em)
    check(before, after, tuple(range(x.shape[1])) if name in GEOMETRY else em)


@pytest.mark.parametrize("name", STRESSES)
def test_every_stress_changes_every_kind_of_set(
    images: tuple[torch.Tensor, tuple[str, ...]], name: str
) -> None:
    x, channels = images
    em = em_channels(channels)
    check(x, stressed(x, np.arange(COUNT), name, crop=(), seed=1, em=em), em)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_takes_images_of_masks_alone(name: str) -> None:
    config = RECIPES[name]()
    shape = (2, 2, *((8, 24, 24) if config.view == "cube" else (24, 24)))
    x = torch.randint(0, 2, shape, dtype=torch.uint8) * 255
    out = augment_batch(x, np.arange(2), config.augment, crop=(), seed=0, epoch=0, em=())
    assert out.shape == x.shape


@pytest.mark.parametrize(
    ("names", "em"),
    [
        (("em",), (0,)),
        (("em", "pre", "post"), (0,)),
        (("pre", "EM 8 nm", "em_16nm"), (1, 2)),
        (("channel 0", "channel 1"), (0, 1)),
        (("red", "green", "blue"), (0, 1, 2)),
        (("raw", "pre_mask", "segmentation", "labels"), (0,)),
        (("embedding", "presynaptic gray"), (0, 1)),
        (("pre", "post"), ()),
        ((), ()),
    ],
)
def test_channels_that_are_em(names: tuple[str, ...], em: tuple[int, ...]) -> None:
    assert em_channels(names) == em
