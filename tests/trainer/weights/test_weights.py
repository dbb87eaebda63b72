"""Weights from files and URLs, what is said of them, and what is refused."""

import functools
import http.server
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from shards.contract.documents import parse_plain, to_plain
from shards.contract.schema import ImageSpec
from shards.stream.shardset import open_shards
from trainer.checkpoint.load import load_trained, model_folder
from trainer.config import Config
from trainer.models.classifier import Inputs, build_classifier, inputs_of
from trainer.models.torchvision_nets import add_stochastic_depth
from trainer.recipes import RECIPES
from trainer.weights.pretrained import load_pretrained, load_weights


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A file server that logs nothing."""

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the URL under which a server hands it out."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Torch's hub folder, of this test alone."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    return tmp_path / "hub"


def load(net: nn.Module, source: object, *, partial: bool = False) -> list[str]:
    return load_weights(net, str(source), partial=partial, class_names=("a", "b"))


def model(channels: int = 1, classes: int = 2) -> nn.Sequential:
    torch.manual_seed(classes)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, classes)
    )


def inputs(shape: tuple[int, ...]) -> Inputs:
    view = "patch" if len(shape) == 3 else "cube"
    image = ImageSpec(shape=shape, dtype="uint8", channels=("em",), voxel_size_nm=(40.0, 8.0, 8.0))
    assert image.view == view
    return Inputs(image=image, class_names=("a", "b"), mean=(0.0,), std=(1.0,))


def config(recipe: str, **changes: object) -> Config:
    values = to_plain(RECIPES[recipe]()) | changes
    return parse_plain(Config, values, where="test", cure="")


def test_what_fits_is_loaded_and_the_rest_is_named(tmp_path: Path) -> None:
    old, new = model(channels=3, classes=5), model()
    tensors = {f"module.{name}": value for name, value in old.state_dict().items()}
    save_file({**tensors, "extra": torch.zeros(2)}, tmp_path / "w.safetensors")
    *lines, unchecked = load(new, tmp_path / "w.safetensors")
    assert "holds no checksums" in unchecked
    assert lines == [
        f"weights from {tmp_path / 'w.safetensors'}, names below 'module.': 7 tensors loaded",
        "skipped 3: 3.bias, 3.weight, extra",
        "left new 2: 3.bias, 3.weight",
    ]
    torch.testing.assert_close(new[0].weight, old[0].weight.sum(dim=1, keepdim=True))
    assert torch.equal(new[0].bias, old[0].bias)


def test_weights_come_from_a_url_once(served: tuple[Path, str]) -> None:
    folder, url = served
    old = model()
    (folder / "a").mkdir()
    torch.save({"state_dict": old.state_dict(), "epoch": 3}, folder / "a" / "w.pth")
    (folder / "b").mkdir()
    torch.save(model(classes=7).state_dict(), folder / "b" / "w.pth")
    for _ in range(2):
        new = model()
        nn.init.zeros_(new[0].weight)
        assert "9 tensors loaded" in load(new, f"{url}/a/w.pth")[0]
        assert torch.equal(new[0].weight, old[0].weight)
        (folder / "a" / "w.pth").unlink(missing_ok=True)
    assert "left new 2" in load(model(), f"{url}/b/w.pth")[2], "same name, other file"
    with pytest.raises(ValueError, match=r"cannot download .*404.*put it at .*nothing\.pth, or"):
        load(model(), f"{url}/nothing.pth")
    with pytest.raises(ValueError, match="unknown url type: ftpx"):
        load(model(), "ftpx://nowhere/w.pth")


def test_a_published_model_is_read_from_its_url(served: tuple[Path, str], cubes: str) -> None:
    folder, url = served
    settings = config("unet3d_small", width=2, crop=[4, 16, 16])
    with open_shards(cubes) as shards:
        own = inputs_of(shards.manifest)
    net = build_classifier(settings, own)[0].eval()
    state = {"config": to_plain(settings), "inputs": asdict(own), "progress": {}}
    more = {"schema_version": 1, "memory_format": "contiguous", "manifest_sha256": ""}
    (folder / "state.json").write_text(json.dumps(state | more))
    with pytest.raises(ValueError, match=r"cannot download .*/model\.safetensors .*check the URL"):
        model_folder(f"{url}/", "best")
    save_file(net.state_dict(), folder / "model.safetensors")
    x = torch.randint(0, 256, (2, 1, 8, 24, 24), dtype=torch.uint8)
    assert torch.equal(load_trained(model_folder(f"{url}/", "best")).model(x), net(x))


def test_a_missing_download_says_where_to_put_the_file(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*args: object, **options: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr("trainer.weights.downloads.urlopen", unreachable)
    place = hub / "checkpoints" / "resnet18-f37072fd.pth"
    with pytest.raises(ValueError, match=f"put it at {place}, or train without them"):
        build_classifier(config("resnet18_2d"), inputs((1, 64, 64)))
    from torchvision.models import resnet18

    theirs = resnet18()
    place.parent.mkdir(parents=True, exist_ok=True)
    torch.save(theirs.state_dict(), place)
    with pytest.raises(ValueError, match=r"its name says f37072fd: it is damaged .* delete it"):
        load_pretrained(resnet18(), "resnet18")
    monkeypatch.setattr("trainer.weights.tensor_files.HASH_IN_NAME", re.compile("no name"))
    ours = resnet18()
    load_pretrained(ours, "resnet18")
    assert torch.equal(ours.fc.weight, theirs.fc.weight)
    classifier, _ = build_classifier(config("resnet18_2d"), inputs((1, 64, 64)))
    expected = theirs.conv1.weight.sum(dim=1, keepdim=True)
    torch.testing.assert_close(classifier.net.conv1.weight, expected)


def test_models_without_published_weights_say_so() -> None:
    with pytest.raises(
        ValueError, match="torchvision has no weights for unet3d, only for resnet18"
    ):
        build_classifier(config("unet3d", weights="default"), inputs((1, 8, 32, 32)))


@pytest.mark.parametrize("recipe", ["resnet18_2d", "r3d_18"])
def test_stochastic_depth_leaves_whole_residuals_out(recipe: str) -> None:
    settings = config(recipe, weights="none", norm="group", dropout=0.0)
    shape = (1, 32, 32) if settings.view == "patch" else (1, 4, 16, 16)
    torch.manual_seed(0)
    net = build_classifier(settings, inputs(shape))[0]
    x = torch.rand(2, *shape)
    expected = net(x)
    add_stochastic_depth(net, 0.999)
    assert torch.equal(net.eval()(x), expected)
    names = list(net.state_dict())
    # The last block's residual is left out: what is behind it changes nothing.
    blocks = [m for m in net.modules() if type(m).__name__ in ("BasicBlock", "Bottleneck")]
    torch.manual_seed(0)
    before = net.train()(x)
    for value in blocks[-1].conv1.parameters():
        nn.init.zeros_(value)
    torch.manual_seed(0)
    torch.testing.assert_close(net(x), before)
    assert not torch.allclose(before, expected)
    assert list(net.state_dict()) == names


def test_stochastic_depth_needs_residual_blocks() -> None:
    with pytest.raises(ValueError, match="needs a model of residual blocks"):
        build_classifier(config("unet3d", stochastic_depth=0.1), inputs((1, 8, 32, 32)))


def test_group_norms_are_named() -> None:
    _, notes = build_classifier(config("unet3d", width=4), inputs((1, 8, 32, 32)))
    assert len(notes) == 1
    assert notes[0].startswith(
        "batch norms that are now group norms: 11: stem.1 (4 channels, 2 groups), "
    )
