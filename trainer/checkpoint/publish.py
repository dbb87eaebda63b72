"""A trained model as one folder to hand on: weights, config, preprocessing, scores, model card.

model.safetensors, state.json   what `trainer predict` takes, by path or URL
model.pt2                       torch.export's program: uint8 images to probabilities
README.md                       the model card
"""

import io
from dataclasses import replace
from pathlib import Path

import torch
from pydantic import JsonValue
from torch import nn

from shards.contract.documents import parse_json
from shards.storage.locks import sole_writer
from trainer.checkpoint.checkpoint import naming, write_model
from trainer.checkpoint.load import Trained, load_trained, model_folder

TOLERANCE = 1e-5
CHECKED = 3  # images on which the exported program is compared


def export_run(run: str, out: Path, *, checkpoint: str = "best", raw: bool = False) -> float:
    """Write the folder `out`; return the largest difference between program and model.

    A difference over 1e-5 is an error, and so is a folder that is a run; neither leaves anything.
    """
    trained = load_trained(model_folder(run, checkpoint), raw=raw)
    if any((out / name).exists() for name in ("run.json", "checkpoints")):
        raise ValueError(f"{out} is a run; export into a folder of its own")
    program, difference = _program(trained)
    files = {"model.pt2": program}
    scores: dict[str, JsonValue] = {}
    metrics = Path(run) / "metrics.json"
    if metrics.is_file():
        files["metrics.json"] = metrics.read_bytes()
        scores = parse_json(
            dict, files["metrics.json"], where=str(metrics), cure="run `python -m eval` again"
        )
    files["README.md"] = model_card(trained, scores).encode()
    state = replace(trained.state, world_size=1, average_steps=0, scaler=None)
    with sole_writer(out), naming(str(out), cure="make room or check the rights there"):
        write_model(out, {"model": trained.model.state_dict()}, state, files)
    return difference


def model_card(trained: Trained, metrics: dict[str, JsonValue]) -> str:
    """Return the model card as Markdown, with the outermost numbers of a metrics.json."""
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
        *(
            f"- {name}: {value}"
            for name, value in metrics.items()
            if isinstance(value, int | float)
        ),
        "",
        "Predict: `python -m trainer predict THIS_FOLDER --data URL --split test`",
    ]
    return "\n".join(lines) + "\n"


def _program(trained: Trained) -> tuple[bytes, float]:
    model = nn.Sequential(trained.model, nn.Softmax(dim=1)).eval()
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
