"""What was trained and on what, in a few lines for the top of the page."""

from eval.evaluate import Evaluation
from eval.inputs.runs import RunInfo, TrainConfig
from eval.results import Count
from shards.contract.schema import ImageSpec

UNKNOWN = "unknown"


def summary(evaluation: Evaluation) -> dict[str, str]:
    """Return recipe, training, images and data as text, each `unknown` where nothing says it."""
    subject = evaluation.subject
    run = subject.run or RunInfo()
    return {
        "recipe": _recipe(run),
        "training": _training(run),
        "images": _images(subject.shards.manifest.image, run) if subject.shards else UNKNOWN,
        "data": "; ".join(_counts(*item) for item in evaluation.run.counts.items()) or UNKNOWN,
    }


def _recipe(run: RunInfo) -> str:
    if run.recipe is None:
        return UNKNOWN
    model = run.config.model if run.config else None
    parts = [run.recipe]
    if model and model != run.recipe:
        parts.append(f"model {model}")
    if run.num_parameters is not None:
        parts.append(f"{run.num_parameters / 1e6:.1f} M parameters")
    if run.config and run.config.weights:
        start = run.config.weights
        parts.append("from scratch" if start == "none" else f"weights {start}")
    return ", ".join(parts)


def _training(run: RunInfo) -> str:
    config = run.config or TrainConfig()
    parts = [
        None if config.epochs is None else f"{config.epochs} epochs",
        None if config.batch_size is None else f"batch {config.batch_size}",
        config.optimizer and f"{config.optimizer} at {config.lr:g}",
        config.schedule and f"{config.schedule} schedule".replace("_", " "),
        config.loss and config.loss.replace("_", " "),
        run.best and f"best epoch {run.best.epoch + 1}",
    ]
    return ", ".join(part for part in parts if part) or UNKNOWN


def _images(image: ImageSpec, run: RunInfo) -> str:
    text = f"{image.view} {_times(image.shape[1:])}"
    if image.voxel_size_nm is not None:
        sizes = image.voxel_size_nm[-len(image.shape[1:]) :]
        text += f" of {_times(sizes)} nm"
    if image.channels != ("em",):
        text += f", channels {', '.join(image.channels)}"
    if run.config and run.config.crop:
        text += f", middle {_times(run.config.crop)} used"
    return text


def _times(values: tuple[float, ...]) -> str:
    return "×".join(f"{value:g}" for value in values)


def _counts(split: str, counts: dict[str, Count]) -> str:
    classes = " + ".join(f"{count.synapses:,} {name}" for name, count in counts.items())
    neurons = [count.neurons for count in counts.values() if count.neurons is not None]
    of = f" of {sum(neurons):,} neurons" if len(neurons) == len(counts) else ""
    return f"{split} {classes}{of}"
