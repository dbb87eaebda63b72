"""Weights that people bring: where the tensors lie in a file, and files that are something else."""

import gzip
import http.server
import io
import json
import pickle
import random
import threading
import zipfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file
from torch import Tensor, nn

from trainer.weights.pretrained import load_weights
from trainer.weights.tensor_files import read_tensors, unchecked

HTML = b"<!DOCTYPE html><html><body>Sign in</body></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


class Net(nn.Module):
    """A net with a head as ours have it: `fc` of dropout and a linear layer."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3)
        self.bn1 = nn.BatchNorm2d(4)
        self.fc = nn.Sequential(nn.Dropout(0.1), nn.Linear(4, classes))


def theirs(seed: int = 1, classes: int = 2) -> dict[str, Tensor]:
    """Weights of the same net with torchvision's name for the head."""
    torch.manual_seed(seed)
    values = Net(classes).state_dict()
    return {name.replace("fc.1.", "fc."): value for name, value in values.items()}


def load(source: object, net: nn.Module | None = None, *, partial: bool = False) -> list[str]:
    names = ("inhibitory", "excitatory")
    return load_weights(net or Net(), str(source), partial=partial, class_names=names)


def pth(value: object) -> bytes:
    held = io.BytesIO()
    torch.save(value, held)
    return held.getvalue()


def archive(*names: str) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as file:
        for name in names:
            file.writestr(name, b"x")
    return held.getvalue()


def prefixed(prefix: str, seed: int = 1) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in theirs(seed).items()}


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "module.",
        "_orig_mod.",
        "net.",
        "module.model.",
        "backbone.",
        "net._orig_mod.",
        "student.",
    ],
)
@pytest.mark.parametrize(
    "place",
    ["", "net", "model", "model_state", "state_dict", "state_dict_ema", "model_state_dict", "a.b"],
)
def test_tensors_are_found_wherever_they_lie(prefix: str, place: str, tmp_path: Path) -> None:
    content: Any = prefixed(prefix)
    for key in reversed(place.split(".") if place else []):
        content = {key: content, "epoch": 3, "optimizer": {"state": {0: {"x": torch.ones(2)}}}}
    torch.save(content, tmp_path / "w.pth")
    net = Net()
    first = load(tmp_path / "w.pth", net)[0]
    assert "9 tensors loaded" in first
    assert (f"its {place!r}" in first) == bool(place)
    for name, value in theirs().items():
        assert torch.equal(net.state_dict()[name.replace("fc.", "fc.1.")], value)


def test_of_two_models_in_a_file_the_first_is_taken_and_the_other_named(tmp_path: Path) -> None:
    torch.save({"state_dict": theirs(1), "state_dict_ema": theirs(2)}, tmp_path / "w.pth")
    net = Net()
    first = load(tmp_path / "w.pth", net)[0]
    assert first.endswith("its 'state_dict': 9 tensors loaded; not from 'state_dict_ema'")
    assert torch.equal(net.conv1.weight, theirs(1)["conv1.weight"])


def test_a_head_of_two_classes_says_which_order_is_assumed(tmp_path: Path) -> None:
    torch.save(theirs(), tmp_path / "w.pth")
    assert load(tmp_path / "w.pth")[-1] == (
        "the head's outputs are taken as inhibitory, excitatory, in this order, which the file "
        "does not say"
    )
    torch.save(theirs(classes=7), tmp_path / "w.pth")
    lines = load(tmp_path / "w.pth", partial=True)
    assert "left new 2: fc.1.bias, fc.1.weight" in lines
    assert "outputs" not in lines[-1]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["inhibitory", "excitatory"], "in this order, as its state.json says"),
        (["excitatory", "inhibitory"], "the head is left new: the file's is of excitatory, inhib"),
    ],
)
def test_a_head_whose_classes_are_known_is_not_mixed_up(
    names: list[str], expected: str, tmp_path: Path
) -> None:
    save_file(Net().state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "state.json").write_text(json.dumps({"inputs": {"class_names": names}}))
    assert expected in load(tmp_path / "model.safetensors")[3]


def test_less_than_half_of_the_model_is_an_error_unless_it_is_wanted(tmp_path: Path) -> None:
    few = {name: value for name, value in theirs().items() if name.startswith("bn1")}
    torch.save(few, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"5 of its 5 tensors fit, which are 14% of .* 58 param"):
        load(tmp_path / "w.pth")
    assert "5 tensors loaded" in load(tmp_path / "w.pth", partial=True)[0]
    torch.save({"w": torch.ones(3)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"none of its 1 tensors fits the model \(for instance w"):
        load(tmp_path / "w.pth", partial=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_are_converted(dtype: torch.dtype, tmp_path: Path) -> None:
    values = {n: v.to(dtype) if v.is_floating_point() else v for n, v in theirs().items()}
    torch.save(values, tmp_path / "w.pth")
    net = Net()
    load(tmp_path / "w.pth", net)
    assert torch.equal(net.conv1.weight, values["conv1.weight"].float())


def broken(change: Callable[[dict[str, Tensor]], None]) -> bytes:
    values = theirs()
    change(values)
    return pth(values)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            broken(lambda v: v["fc.bias"].fill_(float("nan"))),
            "1: fc.1.bias with values that are",
        ),
        (broken(lambda v: v["bn1.running_var"].fill_(float("inf"))), "bn1.running_var with"),
        (broken(lambda v: v.update({"fc.bias": v["fc.bias"].double() * 1e300})), "not finite"),
        (pth({n: v.to(torch.int8) for n, v in theirs().items()}), "1 of its 9 tensors fit, which"),
        (pth([theirs()]), "holds a list, expected tensors by name; save the model's state_dict"),
        (pth(torch.ones(3)), "holds a single tensor, expected tensors by name"),
        (pth({"epoch": 3}), "holds a dict without tensors, expected"),
        (pth(3), "holds a int, expected"),
        (pth(nn.Linear(1, 1)), r"tensors alone \(it holds Python objects, torch.nn.modules.linear"),
        (pth({"w": theirs(), "args": Path("x")}), "holds Python objects, pathlib.PosixPath"),
        (pickle.dumps(theirs), "neither safetensors nor what torch.save writes"),
        (
            archive("m/code/m.py", "m/constants.pkl"),
            "a TorchScript program, not weights; save the model's state_dict",
        ),
        (archive("w.npy"), "arrays of NumPy, not weights of PyTorch"),
        (HTML, "a web page, not weights"),
        (b"\n  <html>", "a web page, not weights"),
        (b'<?xml version="1.0"?><Error>AccessDenied</Error>', "a web page, not weights"),
        (b'{"error": "not found"}', "JSON text, not weights"),
        (POINTER, "a Git LFS pointer, not the file that it stands for; run `git lfs pull`"),
        (b"", "an empty file; fetch it again"),
        (gzip.compress(pth(theirs()), mtime=0), "compressed by gzip"),
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "an HDF5 file"),
        (pth(theirs())[:-100], "cut off or damaged"),
        (pth(theirs())[:2000], "cut off or damaged, 2000 bytes"),
        (b"\x00" * 100, "not a whole file of tensors alone"),
        (b"hello", "not a whole file of tensors alone"),
        (save(theirs())[:-10], "damaged"),
        (b"\x20\x00\x00\x00\x00\x00\x00\x00{" + b"x" * 40, "damaged"),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff{", "damaged"),
    ],
)
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_file_that_is_not_of_good_weights_is_one_line(
    data: bytes, message: str, name: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as error:
        load(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_a_path_that_is_no_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{tmp_path}: a folder; give the file of weights in it"):
        load(tmp_path)
    for path in (tmp_path / "nothing.pth", tmp_path / "nothing" / "w.pth"):
        with pytest.raises(ValueError, match=f"{path}: no such weights file; check --weights"):
            load(path)


def test_a_compressed_archive_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(10_000_000))
    with pytest.raises(ValueError, match="a compressed archive, not weights"):
        load(tmp_path / "w.pth")


@pytest.mark.parametrize("kind", ["pth", "safetensors with state.json", "hash in its name"])
def test_no_flipped_bit_of_weights_changes_them_in_silence(kind: str, tmp_path: Path) -> None:
    values = theirs()
    whole = pth(values) if kind == "pth" else save(values)
    path = tmp_path / ("w.pth" if kind == "pth" else "w.safetensors")
    digest = sha256(whole).hexdigest()
    if "state" in kind:
        (tmp_path / "state.json").write_text(json.dumps({"files": {path.name: digest}}))
    if "name" in kind:
        path = tmp_path / f"w-{digest[:8]}.safetensors"
        assert any(letter in "abcdef" for letter in digest[:8])
    path.write_bytes(whole)
    assert read_tensors(path)[""].keys() == values.keys()
    rng, refused = random.Random(kind), []
    for _ in range(150):
        bit = rng.randrange(8 * len(whole))
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            found = read_tensors(path)
        except ValueError as error:
            refused.append(str(error))
            continue
        assert found.keys() == {""}
        assert found[""].keys() == values.keys()
        assert all(torch.equal(found[""][name], value) for name, value in values.items())
    assert all(str(path) in line and "\n" not in line for line in refused)
    assert len(refused) > (40 if kind == "pth" else 145)  # a .pth is padded to 64 bytes


def test_a_file_whose_damage_would_not_show_is_named_with_its_hash(tmp_path: Path) -> None:
    values, old = theirs(), io.BytesIO()
    torch.save(values, old, _use_new_zipfile_serialization=False)
    digest = sha256(old.getvalue()).hexdigest()
    for name, data, is_checked in (
        ("w.pth", pth(values), True),
        ("w.safetensors", save(values), False),
        ("old.pth", old.getvalue(), False),
        (f"old-{digest}.pth", old.getvalue(), True),
    ):
        (tmp_path / name).write_bytes(data)
        line = unchecked(tmp_path / name)
        assert (line == "") == is_checked
        assert is_checked or (name in line and sha256(data).hexdigest() in line)
    beside = {"files": {"w.safetensors": "0" * 64}}
    (tmp_path / "state.json").write_text(json.dumps(beside))
    assert unchecked(tmp_path / "w.safetensors") == ""


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_any_mutated_file_is_weights_or_one_line(kind: str, tmp_path: Path) -> None:
    whole = pth(prefixed("module.")) if kind == "pth" else save(theirs())
    rng, path = random.Random(kind), tmp_path / f"w.{kind}"
    for _ in range(200):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            start = rng.randrange(len(data))
            change = rng.randrange(3)
            if change == 0:
                data[start : start + rng.randrange(1, 40)] = rng.randbytes(rng.randrange(40))
            elif change == 1:
                del data[start:]
                data += b"\0"
            else:
                data[start] = rng.choice(b'{}[]"\x00\xff0129tuns.')
        path.write_bytes(data)
        try:
            read_tensors(path)
        except ValueError as error:
            message = str(error)
        else:
            continue
        assert message.startswith(str(path))
        assert "\n" not in message


class Cut(http.server.BaseHTTPRequestHandler):
    """Serves bytes by path; what ends in `cut` stops before its length is reached."""

    files: dict[str, bytes]

    def do_GET(self) -> None:
        data = self.files[self.path]
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if "cut" in self.path else data)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Return a function that serves bytes under a path and returns their URL."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    monkeypatch.setattr(Cut, "files", {}, raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Cut) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()

        def url_of(path: str, data: bytes) -> str:
            Cut.files[path] = data
            return f"http://127.0.0.1:{server.server_port}{path}"

        yield url_of
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("path", "data", "message"),
    [
        ("/cut.pth", pth(theirs()), r"cut off after \d+ of \d+ bytes"),
        ("/w-0123abcd.pth", pth(theirs()), "its name says 0123abcd: it is damaged or another"),
        ("/w.pth", HTML, "the download: a web page, not weights"),
        ("/w.pth", POINTER, "the download: a Git LFS pointer"),
        ("/w.pth", pth([1]), "the download: holds a list"),
    ],
)
def test_a_bad_download_is_one_line_and_is_not_kept(
    path: str, data: bytes, message: str, serve: Callable[..., str], tmp_path: Path
) -> None:
    url = serve(path, data)
    with pytest.raises(ValueError, match=f"cannot download {url} .*{message}") as error:
        load(url)
    assert "\n" not in str(error.value)
    assert not [p for p in (tmp_path / "hub").rglob("*") if p.is_file()]
    if "cut" not in path:
        good = pth(theirs())
        name = f"/w-{sha256(good).hexdigest()[:8]}.pth"
        assert "9 tensors loaded" in load(serve(name, good))[0]
