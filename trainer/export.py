"""A trained model as one folder to hand on: weights, config, preprocessing, scores, model card.

model.safetensors, state.json   what `trainer predict` takes, by path or URL
model.pt2                       torch.export's program: uint8 images to probabilities
README.md                       the model card
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from shards.files import atomic_write, read_json, write_json
from trainer import state as checkpoints
from trainer.trained import Trained, load_trained, model_folder

TOLERANCE = 1e-5
CHECKED = 3  # images on which the exported program is compared


class Probabilities(nn.Module):
    """uint8 images (b, c, [z], y, x) to probabilities (b, classes)."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        """Return probabilities."""
        return torch.softmax(self.classifier(x), dim=1)


def export_run(run: str, out: Path, *, checkpoint: str = "best", raw: bool = False) -> float:
    """Write the folder `out`; return the largest difference between program and model.

    A difference over 1e-5 is an error, and leaves no program.
    """
    folder = model_folder(run, checkpoint)
    trained = load_trained(folder, raw=raw)
    out.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.contiguous() for name, value in trained.model.state_dict().items()}
    save_file(tensors, out / "model.safetensors")
    saved = checkpoints.load_state(folder)
    kept = ("schema_version", "config", "manifest_sha256", "inputs", "progress", "memory_format")
    write_json(out / "state.json", {name: saved[name] for name in kept})
    difference = _export_program(trained, out / "model.pt2")
    metrics = Path(run) / "metrics.json"
    if metrics.is_file():
        shutil.copyfile(metrics, out / "metrics.json")
    with atomic_write(out / "README.md") as file:
        file.write(model_card(trained, saved, _scores(metrics)).encode())
    return difference


def model_card(trained: Trained, saved: dict[str, Any], scores: dict[str, Any]) -> str:
    """Return the model card as Markdown."""
    image, config = trained.inputs.image, trained.config
    parameters = sum(p.numel() for p in trained.model.parameters())
    mean, std = (
        ", ".join(f"{v:.3f}" for v in t) for t in (trained.inputs.mean, trained.inputs.std)
    )
    lines = [
        f"# {config.model}: {' or '.join(trained.inputs.class_names)}",
        "",
        f"A synapse classifier of {parameters:,} parameters, trained by synshards.",
        "",
        f"- Input: uint8 images ({image.axes}) of {image.shape}: {', '.join(image.channels)}",
        f"- Voxels: {' × '.join(f'{v:g}' for v in image.voxel_size_nm)} nm (z, y, x)",
        f"- Preprocessing (in the model): central crop {config.crop or 'none'}",
        f"- Then (gray - {mean}) / {std}",
        f"- Output: probabilities of {', '.join(trained.inputs.class_names)}, in this order",
        f"- Data: shard set with manifest SHA-256 {saved['manifest_sha256']}",
        f"- Best validation {config.monitor}: {saved['progress']['best']:.4f}",
        *(f"- {name}: {value}" for name, value in scores.items()),
        "",
        "Predict: `python -m trainer predict THIS_FOLDER --data URL --split test`",
    ]
    return "\n".join(lines) + "\n"


def _export_program(trained: Trained, path: Path) -> float:
    model = Probabilities(trained.model).eval()
    rng = torch.Generator().manual_seed(0)
    shape = (CHECKED, *trained.inputs.image.shape)
    x = torch.randint(0, 256, shape, generator=rng, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},))
    with torch.inference_mode():
        difference = max(
            float((program.module()(part) - model(part)).abs().max()) for part in (x, x[:1])
        )
    if difference > TOLERANCE:
        raise RuntimeError(f"the exported program differs by {difference:.2g} from the model")
    with atomic_write(path) as file:
        torch.export.save(program, file)
    return difference


def _scores(metrics: Path) -> dict[str, Any]:
    if not metrics.is_file():
        return {}
    found = read_json(metrics, what="metrics file", cure="run `python -m eval` again")
    return {name: value for name, value in found.items() if isinstance(value, int | float)}
