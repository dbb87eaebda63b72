"""A trained model as one folder to hand on: weights, config, preprocessing, scores, model card.

model.safetensors, state.json   what `trainer predict` takes, by path or URL
model.pt2                       torch.export's program: uint8 images to probabilities
README.md                       the model card
"""

import io
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from shards.contract.documents import parse_json
from shards.storage.locks import sole_writer
from trainer.checkpoint.checkpoint import naming, write_model
from trainer.checkpoint.load import Trained, load_trained, model_folder

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

    A difference over 1e-5 is an error, and so is a folder that is a run; neither leaves anything.
    """
    trained = load_trained(model_folder(run, checkpoint), raw=raw)
    if any((out / name).exists() for name in ("run.json", "checkpoints")):
        raise ValueError(f"{out} is a run; export into a folder of its own")
    metrics = Path(run) / "metrics.json"
    scores = metrics.read_bytes() if metrics.is_file() else None
    program, difference = _program(trained)
    card = model_card(trained, _numbers(scores, where=str(metrics)))
    files = {"model.pt2": program, "README.md": card.encode()}
    if scores is not None:
        files["metrics.json"] = scores
    state = replace(trained.state, world_size=1, average_steps=0, scaler=None)
    with sole_writer(out), naming(str(out), cure="make room or check the rights there"):
        write_model(out, {"model": trained.model.state_dict()}, state, files)
    return difference


def model_card(trained: Trained, scores: dict[str, float]) -> str:
    """Return the model card as Markdown."""
    image, config = trained.inputs.image, trained.config
    parameters = sum(p.numel() for p in trained.model.parameters())
    best = trained.state.progress.best
    mean, std = (
        ", ".join(f"{v:.3f}" for v in t) for t in (trained.inputs.mean, trained.inputs.std)
    )
    lines = [
        f"# {config.model}: {' or '.join(trained.inputs.class_names)}",
        "",
        f"A synapse classifier of {parameters:,} parameters, trained by synshards.",
        "",
        f"- Input: uint8 images ({image.axes}) of {image.shape}: {', '.join(image.channels)}",
        f"- Voxels: {image.voxels}",
        f"- Preprocessing (in the model): central crop {config.crop or 'none'}",
        f"- Then (gray - {mean}) / {std}",
        f"- Output: probabilities of {', '.join(trained.inputs.class_names)}, in this order",
        f"- Data: shard set with manifest SHA-256 {trained.state.manifest_sha256}",
        f"- Best validation {config.monitor}: {'none yet' if best is None else f'{best:.4f}'}",
        *(f"- {name}: {value}" for name, value in scores.items()),
        "",
        "Predict: `python -m trainer predict THIS_FOLDER --data URL --split test`",
    ]
    return "\n".join(lines) + "\n"


def _program(trained: Trained) -> tuple[bytes, float]:
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
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue(), difference


def _numbers(metrics: bytes | None, *, where: str) -> dict[str, float]:
    """Return the outermost numbers of a metrics.json."""
    if metrics is None:
        return {}
    scores = parse_json(dict, metrics, where=where, cure="run `python -m eval` again")
    return {name: value for name, value in scores.items() if isinstance(value, int | float)}
