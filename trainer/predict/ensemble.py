"""Trained models as one function from images to probabilities: the mean over them."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from accelerate import Accelerator
from torch import Tensor

from trainer.checkpoint.load import Trained, load_trained, model_folder
from trainer.config import Config
from trainer.models.infer import Predict, softmax_of
from trainer.predict.tta import averaged, symmetries
from trainer.setup.preflight import is_native

Images = TypeVar("Images")


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How trained models predict. `batch_size` is per rank; 0 takes the first model's own.

    `tta` averages over 8 symmetries, `in_plane` over the other 8 of a cube (see `symmetries`).
    """

    checkpoint: str = "best"
    tta: bool = False
    in_plane: bool = False
    raw: bool = False
    stress: tuple[str, ...] = ()
    batch_size: int = 0

    @property
    def num_views(self) -> int:
        """Number of symmetries that are averaged over."""
        return 8 if self.tta or self.in_plane else 1


def load_models(runs: Sequence[str], options: Options) -> list[Trained]:
    """Return the models of runs, or of folders or URLs that `export` wrote."""
    folders = [model_folder(run, options.checkpoint) for run in runs]
    return [load_trained(folder, raw=options.raw) for folder in folders]


def native_config(config: Config) -> Config:
    """Return a config in a precision that this device computes in; another is said."""
    if is_native(config.precision):
        return config
    sys.stderr.write(
        f"this device does not compute in {config.precision}: predicting in full precision\n"
    )
    return replace(config, precision="no")


def predictor(accelerator: Accelerator, trained: Trained, options: Options) -> Predict:
    """Return a model's function from images to probabilities, on the accelerator's device."""
    plain = softmax_of(trained.model.to(accelerator.device))

    def predict(x: Tensor) -> Tensor:
        with accelerator.autocast():
            return plain(x)

    if options.num_views == 1:
        return predict
    views = symmetries(trained.config.view, in_plane=options.in_plane)
    return averaged(predict, views, trained.config.crop)


def mean_of(predictors: Sequence[Callable[[Images], Tensor]]) -> Callable[[Images], Tensor]:
    """Return the function whose values are the mean of those of several."""

    def predict(x: Images) -> Tensor:
        total = predictors[0](x)
        for one in predictors[1:]:
            total = total + one(x)
        return total / len(predictors)

    return predict
