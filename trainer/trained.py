"""A trained model, read from a run's checkpoint or a published folder, by path or URL."""

from dataclasses import dataclass
from pathlib import Path

from shards.shardset import ShardSet
from trainer import state as checkpoints
from trainer.config import Config, config_from_json
from trainer.memory_format import to_memory_format
from trainer.models import Classifier, Inputs, build_classifier, inputs_from_json, without_weights
from trainer.session import checkpoint_folder
from trainer.weights import cache_folder, fetch_to

FILES = ("state.json", "model.safetensors")


@dataclass(frozen=True)
class Trained:
    """A model with what it was trained as and for."""

    model: Classifier
    config: Config
    inputs: Inputs
    folder: Path


def model_folder(source: str, checkpoint: str) -> Path:
    """Return the folder with a model's weights: of a run, or one that `export` wrote.

    A URL names such a published folder; its files are fetched once into torch's hub folder.
    """
    if "://" in source:
        folder = cache_folder(source)
        for file in FILES:
            fetch_to(folder / file, f"{source.rstrip('/')}/{file}", cure="check the URL")
        return folder
    published = Path(source)
    is_model = (published / "state.json").is_file()
    return published if is_model else checkpoint_folder(published) / checkpoint


def load_trained(folder: Path, *, raw: bool = False) -> Trained:
    """Return the model of a folder, by its averaged weights where there are any, or the raw."""
    where = str(folder / "state.json")
    state = checkpoints.load_state(folder)
    config = config_from_json(state["config"], where=where)
    inputs = inputs_from_json(state["inputs"], where=where)
    model, _ = build_classifier(without_weights(config), inputs)
    averaged = (folder / "average.safetensors").is_file() and not raw
    stem = "average" if averaged else "model"
    try:
        model.load_state_dict(checkpoints.load_tensors(folder, stem))
    except RuntimeError as error:
        raise ValueError(
            f"{folder}/{stem}.safetensors: not the weights of the model in its state.json "
            f"({' '.join(str(error).split())[:160]} …); use another checkpoint"
        ) from None
    to_memory_format(model, state["memory_format"])
    return Trained(model.eval(), config, inputs, folder)


def check_fit(trained: Trained, shards: ShardSet) -> None:
    """Refuse data of other classes, another view, other channels or another resolution."""
    own, image = trained.inputs, shards.manifest.image
    names = shards.manifest.class_names
    if own.class_names != names:
        raise ValueError(
            f"{trained.folder} tells {len(own.class_names)} classes apart "
            f"({', '.join(own.class_names)}) but {shards.url} has {len(names)} "
            f"({', '.join(names)}); predict on data of the same classes"
        )
    for name in ("view", "channels", "voxel_size_nm"):
        if (expected := getattr(own.image, name)) != (found := getattr(image, name)):
            raise ValueError(
                f"{trained.folder} was trained on images of {name} {expected} but {shards.url} "
                f"has {found}; pack the data as it was for training"
            )
    crop = trained.config.crop or own.image.shape[1:]
    if any(size < part for size, part in zip(image.shape[1:], crop, strict=True)):
        raise ValueError(
            f"{trained.folder} needs images of {crop} or more, {shards.url} has {image.shape[1:]}; "
            "cut larger ones"
        )
