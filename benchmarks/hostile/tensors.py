"""Files of weights: safetensors, and zip or pickle files of `torch.save`.

Damage is judged by the safetensors library, and by the checksums of the zip file before torch reads
it. A pickle file has no checksums: torch alone is its judge, of the
tensors wherever they lie; `trainer.weights.tensor_files.unchecked` tells the user.
"""

import io
import random
import zipfile
from collections.abc import Iterator
from typing import Any

import torch
from safetensors.torch import load, save

from benchmarks.hostile.damage import damaged
from benchmarks.hostile.kinds import Answer, Case, Kind
from trainer.weights.tensor_files import read_tensors


class Weights(Kind):
    """The tensors of a small model, by name."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return them."""
        make = torch.Generator().manual_seed(1)
        return {
            f"layer{i}.{leaf}": torch.randn(shape, generator=make)
            for i in range(3)
            for leaf, shape in (("weight", (4, 3, 3, 3)), ("bias", (4,)))
        }

    def write_base(self) -> None:
        """Write safetensors."""
        self.path = self.folder / "w.safetensors"
        self.path.write_bytes(save(self.tensors()))

    def answer(self) -> Answer:
        """Return the tensors' bytes by name, wherever they lie."""
        groups = read_tensors(self.path)
        return [
            sorted(
                (n, str(t.dtype), tuple(t.shape), t.contiguous().numpy().tobytes())
                for n, t in g.items()
            )
            for g in groups.values()
        ]

    def edit(self, rng: random.Random) -> Case:
        """Write the same otherwise, or damage."""
        for old in self.folder.glob("w.*"):
            old.unlink()
        form = rng.choice(("safetensors", "zip", "zip", "pickle"))
        self.path = self.folder / f"w.{'safetensors' if form == 'safetensors' else 'pth'}"
        data = self._bytes(form, rng)
        if rng.random() < 0.3:
            self.path.write_bytes(data)
            return self.same(f"same as {form}")
        name, bad = damaged(data, rng)
        self.path.write_bytes(bad)
        return self.as_read(f"{form}: {name}", lambda: self._oracle(bad, form))

    def _bytes(self, form: str, rng: random.Random) -> bytes:
        tensors = self.tensors()
        tensors = {name: tensors[name] for name in rng.sample(list(tensors), len(tensors))}
        if form == "safetensors":
            return save(tensors, metadata={"format": "pt"} if rng.random() < 0.5 else None)
        nested = {"state_dict": tensors} if rng.random() < 0.5 else tensors
        buffer = io.BytesIO()
        torch.save(nested, buffer, _use_new_zipfile_serialization=form == "zip")
        return buffer.getvalue()

    def _oracle(self, data: bytes, form: str) -> Answer:
        if form == "safetensors":
            found = load(data)
        else:
            if form == "zip":
                with zipfile.ZipFile(io.BytesIO(data)) as file:
                    if file.testzip() is not None:
                        raise ValueError("checksum")
            found = torch.load(io.BytesIO(data), weights_only=True)
        return [
            sorted(
                (n, str(t.dtype), tuple(t.shape), t.contiguous().numpy().tobytes())
                for n, t in group.items()
                if isinstance(t, torch.Tensor)
            )
            for group in _dicts(found)
        ]


def _dicts(values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the dicts that hold tensors, outermost first."""
    if any(isinstance(value, torch.Tensor) for value in values.values()):
        yield values
    for value in values.values():
        if isinstance(value, dict):
            yield from _dicts(value)
