"""TIFF stacks and WebDataset tars.

Same meaning: byte order, compression, tiles, strips, metadata; tar formats, owners, order of the
members of a sample. Damage to TIFF is judged by tifffile, or by Pillow, whichever the answer
agrees with; damage to a tar by Python's tarfile, which must find every member and the end blocks.
"""

import io
import json
import random
import tarfile
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from benchmarks.hostile.damage import damaged
from benchmarks.hostile.kinds import Answer, Case, Kind
from benchmarks.hostile.samples import tar, tar_members
from ingest.volume.files.tiff_stack import open_stack
from shards.pack.import_webdataset import ForeignSpec, index_tars
from shards.stream.shardset import open_shards

SHAPE = (6, 40, 32)


class Tiff(Kind):
    """A stack of sections, as `format: tiff` reads it."""

    def write_base(self) -> None:
        """Write a plain multi-page file."""
        z, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
        self.stack = ((3 * x + 5 * y + 11 * z) % 251 + 1).astype("u1")
        self.path = self.folder / "stack.tif"
        tifffile.imwrite(self.path, self.stack, photometric="minisblack", metadata=None)

    def answer(self) -> Answer:
        """Return shape and voxels."""
        stack = open_stack(str(self.path), "error")
        try:
            sections = [stack.section(z) for z in range(stack.shape[0])]
        finally:
            stack.close()
        return tuple(stack.shape), b"".join(np.asarray(s).tobytes() for s in sections)

    def edit(self, rng: random.Random) -> Case:
        """Write the same otherwise, or damage."""
        options: dict[str, Any] = {
            "photometric": "minisblack",
            "byteorder": rng.choice("<>"),
            "compression": rng.choice((None, "zlib", "lzw", "zstd", "packbits", "lzma")),
        }
        form = rng.choice(("plain", "plain", "shaped", "imagej", "ome", "inverted", "tiles", "big"))
        data = self.stack
        if form == "plain":
            options |= {"metadata": None, "rowsperstrip": rng.choice((None, 1, 7, 40))}
        elif form == "imagej":
            options |= {"imagej": True, "metadata": {"axes": "ZYX"}, "byteorder": ">"}
            options["compression"] = None
        elif form == "ome":
            options |= {"ome": True, "metadata": {"axes": "ZYX"}}
        elif form == "inverted":
            data = 255 - data
            options |= {"metadata": None, "photometric": "miniswhite"}
        elif form == "tiles":
            options |= {"metadata": None, "tile": (16, 16)}
        elif form == "big":
            options |= {"metadata": None, "bigtiff": True}
        if form in ("plain", "tiles") and options["compression"] in ("zlib", "lzw", "zstd"):
            options["predictor"] = rng.random() < 0.5
        tifffile.imwrite(self.path, data, **options)
        if rng.random() < 0.35:
            return self.same(f"same as {form}, {options['compression']}")
        name, bad = damaged(self.path.read_bytes(), rng)
        self.path.write_bytes(bad)
        case = self.as_read(name, lambda: self._tifffile(bad, form))
        other = self.as_read(name, lambda: self._pillow(bad, form))
        return Case(
            edit=f"{form}, {options['compression']}: {name}",
            is_right=lambda got: case.is_right(got) or other.is_right(got),
        )

    def _tifffile(self, data: bytes, form: str) -> Answer:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            pages = np.stack([page.asarray() for page in file.pages])
        return self._answer(pages, form)

    def _pillow(self, data: bytes, form: str) -> Answer:
        with Image.open(io.BytesIO(data)) as file:
            pages = []
            for number in range(getattr(file, "n_frames", 1)):
                file.seek(number)
                pages.append(np.asarray(file.convert("L") if form != "inverted" else file))
        return self._answer(np.stack(pages), "plain")

    def _answer(self, pages: np.ndarray, form: str) -> Answer:
        if pages.dtype != np.uint8 or pages.ndim != 3:
            raise ValueError("no gray stack")
        return pages.shape, (255 - pages if form == "inverted" else pages).tobytes()


class Tar(Kind):
    """A tar of somebody else's, indexed and then read."""

    def write_base(self) -> None:
        """Write a tar as Python does."""
        self.path = self.folder / "train-0.tar"
        self.members = tar_members()
        self.path.write_bytes(tar(self.members))

    def answer(self) -> Answer:
        """Return label, neuron and image by key."""
        for old in self.folder.glob("*"):
            if old != self.path:
                old.unlink()
        url, spec = str(self.folder), ForeignSpec(class_names=("a", "b"))
        index_tars(url, spec, say=lambda _: None)
        with open_shards(url) as shards:
            index = shards.index("train")
            images = shards.read_images("train", np.arange(len(index)))
            neurons = index.neuron_id.tolist()
            keys = index.table["key"].to_pylist()
            labels = index.label.tolist()
        return sorted(
            (key, int(label), int(neuron), image.tobytes())
            for key, label, neuron, image in zip(keys, labels, neurons, images, strict=True)
        )

    def edit(self, rng: random.Random) -> Case:
        """Write the same otherwise, or damage."""
        if rng.random() < 0.35:
            members = self._same_members(rng)
            form = rng.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
            info = {"mtime": rng.randrange(2**31), "uid": rng.randrange(9), "mode": 0o600}
            if form == tarfile.PAX_FORMAT and rng.random() < 0.5:
                info["pax_headers"] = {"comment": "é" * 80, "mtime": "12.5"}
            self.path.write_bytes(tar(members, form, **info))
            return self.same(f"same, tar format {form}")
        name, data = damaged(tar(self.members), rng)
        self.path.write_bytes(data)
        return self.as_read(name, lambda: self._oracle(data))

    def _same_members(self, rng: random.Random) -> list[tuple[str, bytes]]:
        samples = [self.members[i : i + 3] for i in range(0, len(self.members), 3)]
        result = []
        for sample in rng.sample(samples, len(samples)):
            (image_name, image), *others = sample
            result += rng.sample([(image_name, image), *others], 3)
        return result

    def _oracle(self, data: bytes) -> Answer:
        samples: dict[str, dict[str, bytes]] = {}
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:", errorlevel=2) as file:
            for member in file:
                if not member.isreg() or member.issparse():
                    raise ValueError("no plain file")
                stream = file.extractfile(member)
                assert stream is not None
                key, _, ending = member.name.partition(".")
                content = stream.read()
                if len(content) != member.size or ending in samples.setdefault(key, {}):
                    raise ValueError("damaged")
                samples[key][ending] = content
            end = file.offset
        if len(data) - end < 0 or any(data[end:]) or len(data) < end:
            raise ValueError("something behind the end")
        return sorted(self._sample(key, parts) for key, parts in samples.items())

    def _sample(self, key: str, parts: dict[str, bytes]) -> tuple[str, int, int, bytes]:
        image = np.load(io.BytesIO(parts["npy"]), allow_pickle=False)
        if image.dtype != np.uint8 or image.shape != (1, 12, 16):
            raise ValueError("another image")
        label = int(parts["cls"]) if "cls" in parts else -1
        neuron = json.loads(parts["json"])["neuron_id"] if "json" in parts else 0
        return key, label, neuron, image.tobytes()
