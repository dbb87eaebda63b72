"""A trained model, read from a run's checkpoint or a published folder, by path or URL."""

from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

from shards.contract.schema import ImageSpec
from trainer.checkpoint.checkpoint import (
    STATE,
    State,
    checkpoint_folder,
    load_state,
    load_tensors,
    parse_record,
)
from trainer.config import Config
from trainer.models.classifier import Classifier, Inputs, build_classifier, without_weights
from trainer.models.memory_format import to_memory_format
from trainer.weights.downloads import cache_folder, fetch_to
from trainer.weights.tensor_files import parse_safetensors

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Trained:
    """A model with what it was trained as and for."""

    model: Classifier
    state: State
    folder: Path

    @property
    def config(self) -> Config:
        """The configuration that it was trained with."""
        return self.state.config

    @property
    def inputs(self) -> Inputs:
        """The inputs that it was trained for."""
        return self.state.inputs


def model_folder(source: str, checkpoint: str) -> Path:
    """Return the folder with a model's weights: of a run, or one that `export` wrote.

    A URL names such a published folder; its files are fetched once into torch's hub folder.
    """
    if "://" in source:
        return _fetched(source.rstrip("/"))
    published = Path(source)
    is_model = (published / "state.json").is_file()
    if is_model and checkpoint != "best":
        raise ValueError(f"{source} is one model, without checkpoints; leave out --checkpoint")
    return published if is_model else (checkpoint_folder(published) / checkpoint).resolve()


def _fetched(url: str) -> Path:
    folder = cache_folder(url)
    where = f"{url}/{STATE}"
    read_state = partial(parse_record, State, where=where, cure="check the URL")
    fetch_to(folder / STATE, where, cure="check the URL", check=read_state)
    expected = load_state(folder).files.get(WEIGHTS)

    def check(data: bytes) -> None:
        if expected is not None and sha256(data).hexdigest() != expected:
            raise ValueError(f"its SHA-256 is not the one in {STATE}; delete {folder}, try again")
        parse_safetensors(data, where="the download", cure="check the URL")

    fetch_to(folder / WEIGHTS, f"{url}/{WEIGHTS}", cure="check the URL", check=check)
    return folder


def load_trained(folder: Path, *, raw: bool = False) -> Trained:
    """Return the model of a folder, by its averaged weights where there are any, or the raw."""
    state = load_state(folder)
    try:
        model, _ = build_classifier(without_weights(state.config), state.inputs)
    except ValueError as error:
        raise ValueError(f"{folder / STATE}: {error}") from None
    averaged = "average.safetensors" in state.files or (folder / "average.safetensors").is_file()
    stem = "average" if averaged and not raw else "model"
    try:
        model.load_state_dict(load_tensors(folder, stem))
    except RuntimeError as error:
        raise ValueError(
            f"{folder}/{stem}.safetensors: not the weights of the model in its state.json "
            f"({' '.join(str(error).split())[:160]} …); use another checkpoint"
        ) from None
    to_memory_format(model, state.memory_format)
    return Trained(model=model.eval(), state=state, folder=folder)


def check_fit(trained: Trained, image: ImageSpec, names: tuple[str, ...], *, where: str) -> None:
    """Refuse data of other classes, another view, other channels or another resolution.

    `image` and `names` are the images and the classes of the data at `where`.
    """
    own = trained.inputs
    if own.class_names != names:
        raise ValueError(
            f"{trained.folder} tells {len(own.class_names)} classes apart "
            f"({', '.join(own.class_names)}) but {where} has {len(names)} "
            f"({', '.join(names)}); predict on data of the same classes"
        )
    if own.image.voxel_size_nm is not None and image.voxel_size_nm is None:
        raise ValueError(
            f"{trained.folder} was trained on voxels {own.image.voxels}, but those of {where} "
            "are of unknown size; say it: `python -m shards index URL --voxel-size-nm Z Y X`"
        )
    for name in ("view", "dtype", "channels", "voxel_size_nm"):
        expected, given = getattr(own.image, name), getattr(image, name)
        if expected not in (None, given):  # None: a voxel size that was unknown in training
            raise ValueError(
                f"{trained.folder} was trained on images of {name} {expected} but {where} "
                f"has {given}; pack the data as it was for training"
            )
    crop = trained.config.crop or own.image.shape[1:]
    if any(size < part for size, part in zip(image.shape[1:], crop, strict=True)):
        raise ValueError(
            f"{trained.folder} needs images of {crop} or more, {where} has {image.shape[1:]}; "
            "cut larger ones"
        )
