"""Everything that decides what a run learns (`Config`), and how fast it does so (`System`).

Two runs with equal `Config`, data and number of ranks learn the same. A run is resumed with the
same `Config` alone; `System` may change on the way.
"""

import math
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal

from shards.contract.documents import document
from shards.contract.schema import View
from shards.stream.order import OrderSpec

Precision = Literal["no", "bf16", "fp16"]
MemoryFormat = Literal["contiguous", "channels_last"]
Monitor = Literal["balanced_accuracy", "loss"]
NOT_NEGATIVE = (
    "weight_decay", "clip_norm", "seed", "mixup", "cutmix", "focal_gamma", "lr_batch", "patience",
    "max_per_neuron", "window_shards",
)  # fmt: skip


SECTIONS = (
    "section_brightness", "section_contrast", "missing_p", "blurred_p", "slip_p", "step_p"
)  # fmt: skip


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class Augment:
    """Random changes of training images, others for each sample in each epoch.

    Names that end in `_p` are probabilities per sample; the rest are upper limits. Gray values are
    a fraction of the full range 0 to 255; lengths are in voxels, angles in degrees.
    """

    flip: bool = True
    """Mirror each axis with probability 1/2."""
    turn: bool = True
    """Rotate by 0, 90, 180 or 270 degrees in the plane; needs square images."""
    shift_vx: int = 0
    """Move the crop by up to this much in y and x, as far as the image reaches."""
    rotate: float = 0.0
    """Rotate in the plane by up to this angle."""
    scale: float = 0.0
    """Enlarge or shrink in the plane by a factor of up to 1 + this."""
    elastic_vx: float = 0.0
    """Displace smoothly in the plane, by this standard deviation at the nodes of a 4×4 grid."""
    brightness: float = 0.0
    """Multiply by 1 ± up to this."""
    contrast: float = 0.0
    """Scale the deviation from the image's mean by 1 ± up to this."""
    gamma: float = 0.0
    """Raise gray values, as a fraction of 255, to a power between 1 / (1 + this) and 1 + this."""
    section_brightness: float = 0.0
    """Multiply each section by a factor of its own, 1 ± up to this."""
    section_contrast: float = 0.0
    """Scale each section's deviation from its mean by a factor of its own, 1 ± up to this."""
    noise: float = 0.0
    """Add Gaussian noise of a standard deviation of up to this."""
    blur_p: float = 0.0
    """Gaussian blur of 3 pixels, sigma 0.1 to 1."""
    missing_p: float = 0.0
    """Up to two sections are black or the mean gray."""
    blurred_p: float = 0.0
    """One section is out of focus."""
    slip_p: float = 0.0
    """One section is shifted by up to `misalign_vx`."""
    step_p: float = 0.0
    """All sections from one on are shifted by up to `misalign_vx`."""
    misalign_vx: int = 15
    """Largest shift of a section, in y and in x."""
    noise_box_p: float = 0.0
    """A box of noise covers up to half of each axis."""
    cutout_p: float = 0.0
    """A box of the mean gray covers up to half of each axis."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not 0 <= value < math.inf or (item.name.endswith("_p") and value > 1):
                raise ValueError(f"augment.{item.name} is out of range, got {value}")


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The model, its data, and its training."""

    model: str
    """Name in MODELS."""
    view: View
    """Images of the shards: `patch` (c, y, x) or `cube` (c, z, y, x). A 2D model on cubes takes the
    sections of the crop as channels, and reads no others where their number is odd."""
    crop: tuple[int, ...] = ()
    """Central crop in voxels, (y, x) or (z, y, x); empty for the whole image."""
    weights: str = "none"
    """`none`, `default` (torchvision's pretrained weights), or a file or URL of weights."""
    weights_partial: bool = False
    """Accept weights that fit less than half of the model's parameters."""
    stem: Literal["sum", "repeat"] = "sum"
    """Gray images in a model of color images: `sum` its first filters, or `repeat` the image."""
    width: int = 16
    """Channels of the first stage, for models of our own."""
    norm: Literal["batch", "group", "sync"] = "batch"
    """`group` turns every BatchNorm into GroupNorm, `sync` shares its statistics over ranks."""
    dropout: float = 0.0
    """Fraction of the features before the last layer that each step leaves out."""
    stochastic_depth: float = 0.0
    """Largest probability with which a residual block is left out for a sample."""

    loss: Literal["cross_entropy", "bce", "focal"] = "cross_entropy"
    """`bce` learns class 1 against class 0 from one output; `focal` weights easy samples less."""
    class_weights: Literal["none", "inverse", "effective"] = "none"
    """By training counts: inverse frequency, or effective number (beta 0.999)."""
    focal_gamma: float = 2.0
    """Exponent of the focal loss; 0 makes it the cross-entropy."""
    focal_alpha: float = -1.0
    """Weight of class 1 against 1 - alpha of class 0; negative for none."""
    label_smoothing: float = 0.0
    """Fraction of a label that is shared among all classes."""
    mixup: float = 0.0
    """Alpha of MixUp's Beta distribution; 0 for none."""
    cutmix: float = 0.0
    """Alpha of CutMix's Beta distribution; with both, half of the samples get each."""
    balance: Literal["none", "class"] = "none"
    """`class`: every class is drawn equally often."""
    where: str = ""
    """Train on the samples for which this condition on index columns holds, as
    `label_tier == "manual" and size > 100`; empty for all."""
    max_per_neuron: int = 0
    """Train on at most so many samples per neuron and epoch, others in each epoch; 0 for all."""
    data_weights: tuple[float, ...] = ()
    """Of several shard sets, the share of each in an epoch; empty to read every sample once."""
    window_shards: int = 0
    """Shuffle within windows of so many shards, for remote sets larger than the cache; 0 to shuffle
    the whole split."""
    nodes: int = 1
    """Divide the shards among so many nodes, each of which reads its own part of every batch."""
    augment: Augment = field(default_factory=Augment)

    epochs: int = 30
    """Passes over the training split."""
    batch_size: int = 32
    """Images per step over all ranks."""
    accumulate: int = 1
    """Parts of a rank's batch that go through the model one after the other."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    """Optimizer of torch; `sgd` has momentum 0.9."""
    lr: float = 5e-4
    """Highest learning rate."""
    lr_batch: int = 0
    """The batch size that `lr` is for: it is scaled to the actual one; 0 to leave it as it is."""
    weight_decay: float = 0.0
    """Decay of the weights, as the optimizer takes it."""
    schedule: Literal["cosine", "constant", "one_cycle"] = "cosine"
    """Course of the learning rate after the warm-up."""
    warmup: float = 0.0
    """Fraction of all steps over which the rate rises."""
    clip_norm: float = 0.0
    """Largest gradient norm; 0 for no limit."""
    ema: float = 0.0
    """Decay per step of the moving average of weights; 0 for none."""
    precision: Precision = "no"
    """`bf16` or `fp16` for automatic mixed precision, `no` for float32."""
    monitor: Monitor = "balanced_accuracy"
    """The validation score that decides which checkpoint is best."""
    patience: int = 0
    """Stop after so many epochs without a better validation score; 0 to never stop."""
    on_collapse: Literal["warn", "stop"] = "warn"
    """Warn, or also stop, when every validation sample is predicted as one class, twice in a row
    after the first epoch."""
    seed: int = 42
    """Seed of weights, order and augmentation."""

    def __post_init__(self) -> None:
        axes = 2 if self.view == "patch" else 3
        if len(self.crop) not in (0, axes) or any(size < 1 for size in self.crop):
            raise ValueError(
                f"crop must be {axes} positive sizes for a {self.view}, got {self.crop}"
            )
        for name in ("epochs", "batch_size", "lr", "width", "accumulate", "nodes"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")
        for name in ("dropout", "stochastic_depth", "warmup", "label_smoothing", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        for name in NOT_NEGATIVE:
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"{name} must not be negative, and finite, got {getattr(self, name)}"
                )
        if not self.focal_alpha <= 1:
            raise ValueError(f"focal_alpha must be at most 1, got {self.focal_alpha}")
        if self.view == "patch" and (given := [n for n in SECTIONS if getattr(self.augment, n)]):
            raise ValueError(f"patches have no sections: augment.{given[0]} is for cubes")
        if self.balance == "class" and self.class_weights != "none":
            raise ValueError(
                f"balance class and class_weights {self.class_weights} both correct for unequal "
                "classes; choose one"
            )

    @property
    def order(self) -> OrderSpec:
        """The order in which training samples are read."""
        return OrderSpec(
            seed=self.seed,
            balance=self.balance,
            max_per_neuron=self.max_per_neuron or None,
            weights=self.data_weights or None,
            where=self.where,
            window_shards=self.window_shards or None,
            nodes=self.nodes,
        )


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class System:
    """Speed, memory and logging: may change when a run is resumed."""

    memory_format: Literal["auto", "contiguous", "channels_last"] = "auto"
    """`auto` times the model both ways at start and keeps the faster."""
    threads: int = 0
    """CPU threads per rank; 0 for the machine's cores divided by its ranks."""
    compile: bool = False
    """torch.compile the model."""
    checkpoint_activations: bool = False
    """Recompute activations in the backward pass, which saves memory."""
    readers: int = 2
    """Threads that read samples."""
    checkpoint_s: float = 600.0
    """Seconds between checkpoints within an epoch."""
    checkpoint_steps: int = 0
    """Steps between checkpoints within an epoch; 0 to go by seconds alone."""
    log_steps: int = 10
    """Steps between records in metrics.jsonl."""

    def __post_init__(self) -> None:
        for name in ("checkpoint_s", "readers", "log_steps"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Return `name old -> new` for each field in which two configs differ."""
    lines = []
    for item in fields(old):
        a, b = getattr(old, item.name), getattr(new, item.name)
        if is_dataclass(a):
            lines += differences(a, b, f"{prefix}{item.name}.")
        elif a != b:
            lines.append(f"{prefix}{item.name} {a!r} -> {b!r}")
    return lines
