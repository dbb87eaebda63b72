"""The subject of an evaluation: predictions of a run or any model, and what is known of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from eval.inputs.parts import has_parts, read_parts
from eval.inputs.predictions import (
    CENTERS,
    DEFAULT_CLASS_NAMES,
    Floats,
    Ints,
    PredictionsInfo,
    probability_matrix,
    read_predictions,
)
from eval.inputs.rows import ALL, Images, Tables, name_of, rows_of_split, split_codes
from eval.inputs.runs import LEARNING, Curves, RunInfo, read_learning, read_run
from eval.metrics.bootstrap import Scored
from shards.contract.schema import IDENTITY_COLUMNS, SPLITS, UNLABELLED
from shards.stream.shardset import ShardSet, open_shards
from shards.tabular.table_files import Column, open_table_file

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One split: its labelled rows, ready to be scored, with their table."""

    frame: pd.DataFrame  # (n) labelled rows
    scored: Scored  # with no threshold yet
    neuron_ids: Ints  # (m,) of the groups, the unknown (0) last: such a synapse stands for itself
    num_unlabelled: int
    num_alone: int  # synapses without a known neuron, each its own group

    @property
    def known(self) -> Mask:
        """Mask (n,) of the rows with a known neuron; all false with fewer than two neurons."""
        num_known = len(self.neuron_ids) - self.num_alone
        return np.asarray(self.scored.groups < (num_known if num_known >= 2 else 0))

    @property
    def has_neurons(self) -> bool:
        """True if at least two neurons are known."""
        return len(self.neuron_ids) - self.num_alone >= 2

    @property
    def num_neurons(self) -> int | None:
        """The number of known neurons, None where fewer than two are."""
        return len(self.neuron_ids) - self.num_alone if self.has_neurons else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """Predictions on test, on validation where there are any, and the data they are of."""

    name: str
    path: Path  # of the test predictions
    folder: Path  # where results go
    split: str  # the scored rows, called test below
    info: PredictionsInfo
    test: Part
    val: Part | None
    stress: dict[str, Part] = field(default_factory=dict)
    run: RunInfo | None = None  # of run.json, where there is one
    run_text: str = ""
    learning: Curves = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # what was noticed when reading
    shards: ShardSet | None = None
    tags: dict[int, str] | None = None  # target compartment by synapse

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.info.class_names)


def open_subject(
    path: Path,
    *,
    data: str | None = None,
    fold: int | None = None,
    use_data: bool = True,
    split: str = "test",
) -> Subject:
    """Return what stands at `path`: a run's folder, or predictions, a table or in parts.

    `split` names the rows that are scored: one of `SPLITS`, or `ALL` for every row of a table.
    `data` is the shard set's URL, and `fold` its fold of a cross-validation, where they are not
    those that were noted; without `use_data`, or where another split than test is scored, no shard
    set is opened, and pictures and training-based baselines are left out.
    """
    is_run = path.is_dir() and not has_parts(path)
    subject = _open_run(path, split) if is_run else _open_file(path, split)
    run = subject.run or RunInfo()
    url = data or subject.info.data_url or run.data_url
    noted_fold = subject.info.fold if subject.info.data_url else run.fold
    if not use_data or not url or split != SPLITS[-1]:
        return subject
    try:
        shards = open_shards(url, fold=noted_fold if fold is None else fold)
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{subject.path}: the shard set that was predicted cannot be read ({error}); give "
            "its URL with --data, or evaluate without it with --no-use-data"
        ) from None
    noted = subject.info.manifest_sha256 or run.manifest_sha256
    if noted and noted != shards.manifest_sha256:
        raise ValueError(
            f"{subject.path} was predicted on a shard set whose manifest has SHA-256 {noted[:12]}…"
            f", {shards.url} has {shards.manifest_sha256[:12]}…; give that set with --data, "
            "predict again, or evaluate without it with --no-use-data"
        )
    return replace(subject, shards=shards)


def folder_of(path: Path) -> Path:
    """Return where the results of what stands at `path` go."""
    return path if path.is_dir() else path.parent


def _open_run(folder: Path, split: str) -> Subject:
    run, run_text = read_run(folder)
    learning, bad_lines = read_learning(folder)
    places = folder / "predictions"
    path = places / f"{split}.parquet"
    if not path.is_file():
        raise ValueError(
            f"{path}: no predictions on {split}; make them with "
            f"`python -m trainer predict {folder} --split val test`"
        )
    subject = _open_file(path, split)
    stress = {
        file.name.split(".")[1]: _stressed(file, subject.info, split)
        for file in sorted(places.glob(f"{split}.*.parquet"))
    }
    bad = f"{bad_lines} lines of {LEARNING} are not readable and left out."
    return replace(
        subject,
        name=folder.resolve().name,
        folder=folder,
        stress=stress,
        run=run,
        run_text=run_text,
        learning=learning,
        notes=(*subject.notes, *([bad] if bad_lines else [])),
    )


def _open_file(path: Path, split: str) -> Subject:
    frame, info = read_table_or_parts(path, (split, "val"))
    rows, notes = rows_of_split(frame, split, where=str(path))
    val = _val_of(path, frame, info) if split == "test" else None
    if name_of(path) == split and "split" not in frame:
        notes = ()
    return Subject(
        name=name_of(path),
        path=path,
        folder=folder_of(path),
        split=split,
        info=info,
        test=make_part(rows, info, where=str(path)),
        val=val,
        notes=(*notes, *_order_of_classes(info)),
    )


def read_table_or_parts(
    path: Path, splits: Sequence[str] = (ALL,)
) -> tuple[pd.DataFrame, PredictionsInfo]:
    """Return predictions and what made them; of those in parts, the rows of `splits` alone."""
    if not has_parts(path):
        return read_predictions(path)
    if ALL in splits:
        return read_parts(path)
    return read_parts(path, lambda part: part[split_codes(part["split"]).isin(splits)])


def _order_of_classes(info: PredictionsInfo) -> Iterator[str]:
    """Say how classes are numbered that only the columns of another tool's table name."""
    numbers = tuple(str(number) for number in range(len(info.class_names)))
    if info.run or info.data_url or info.class_names in (DEFAULT_CLASS_NAMES, numbers):
        return
    listed = ", ".join(f"{name} {number}" for number, name in enumerate(info.class_names))
    yield (
        f"Classes are numbered as their columns stand ({listed}): labels that are numbers must be "
        "of this order."
    )


def _val_of(path: Path, frame: pd.DataFrame, info: PredictionsInfo) -> Part | None:
    """Return the validation rows of a test table, or of `val` beside it."""
    if "split" in frame and (split_codes(frame["split"]) == "val").any():
        rows, _ = rows_of_split(frame, "val", where=str(path))
        return make_part(rows, info, where=f"{path}, val")
    beside = path.with_name(path.name.replace("test", "val", 1))
    if name_of(path) != "test" or not beside.is_file():
        return None
    frame, own = read_predictions(beside)
    if own.class_names != info.class_names:
        raise ValueError(
            f"{beside} has classes {', '.join(own.class_names)}, test has "
            f"{', '.join(info.class_names)}; predict both with the same model"
        )
    rows, _ = rows_of_split(frame, "val", where=str(beside))
    return make_part(rows, info, where=str(beside))


def _stressed(path: Path, info: PredictionsInfo, split: str) -> Part:
    frame, _ = read_predictions(path)
    rows, _ = rows_of_split(frame, split, where=str(path))
    return make_part(rows, info, where=str(path))


def make_part(frame: pd.DataFrame, info: PredictionsInfo, *, where: str) -> Part:
    """Return the labelled rows of a checked table; too little to score is a `ValueError`."""
    labelled = (frame["label"] != UNLABELLED).to_numpy()
    num_unlabelled = int((~labelled).sum())
    if num_unlabelled:
        frame = frame[labelled].reset_index(drop=True)
    labels = frame["label"].to_numpy(np.int64)
    if not len(labels):
        raise ValueError(
            f"{where}: no sample has a label (column `label`), so there is nothing to score; "
            "`python -m eval export` shows predictions without labels in Neuroglancer"
        )
    counts = np.bincount(labels, minlength=len(info.class_names))
    if (counts == 0).any():
        empty = ", ".join(np.array(info.class_names)[counts == 0])
        raise ValueError(
            f"{where}: no labelled sample of class {empty} among {len(labels)}; every class must "
            "occur to be scored, predict a split that has them"
        )
    ids = neuron_ids_of(frame)
    groups, neuron_ids, num_alone = _number_neurons(ids)
    if len(neuron_ids) < 2:
        raise ValueError(
            f"{where}: all {len(labels)} samples are of one neuron, {ids[0]}; intervals need "
            "neurons to draw from, predict samples of several"
        )
    scored = Scored(
        labels=labels,
        probabilities=probability_matrix(frame, info.class_names),
        groups=groups,
        num_groups=len(neuron_ids),
        tau=None,
    )
    return Part(
        frame=frame,
        scored=scored,
        neuron_ids=neuron_ids,
        num_unlabelled=num_unlabelled,
        num_alone=num_alone,
    )


def neuron_ids_of(frame: pd.DataFrame) -> Ints:
    """Return each row's presynaptic neuron (n,), 0 where it is unknown."""
    for name in ("neuron_id", "pre_root_id"):
        if name in frame and frame[name].any():
            return frame[name].to_numpy(np.int64)
    return np.zeros(len(frame), np.int64)


def _number_neurons(ids: Ints) -> tuple[Ints, Ints, int]:
    """Return each row's group, the groups' ids, and how many rows (id 0) stand for themselves."""
    alone = np.flatnonzero(ids == 0)
    known, groups = np.unique(ids, return_inverse=True)
    if len(alone):
        known = known[known != 0]
        groups = np.searchsorted(known, ids)
        groups[alone] = len(known) + np.arange(len(alone))
    return groups, np.append(known, np.zeros(len(alone), np.int64)), len(alone)


def tables_of(subject: Subject) -> Tables | None:
    """Return the labelled tables of all splits for baselines; None without a shard set."""
    if subject.shards is None:
        return None
    train = index_frame(subject.shards, "train")
    val = subject.val.frame if subject.val else subject.test.frame.iloc[:0]
    return Tables(
        train=with_tags(subject, train[train["label"] != UNLABELLED].reset_index(drop=True)),
        val=with_tags(subject, _complete(val)),
        test=with_tags(subject, _complete(subject.test.frame)),
        num_classes=subject.num_classes,
    )


def read_tags(path: Path) -> dict[int, str]:
    """Return the target compartment by synapse id of a table of synapse_id (or id) and tag."""
    opened = open_table_file(str(path))
    names = [name for name in ("target_id", "synapse_id", "id") if name in opened.names]
    if not names or "tag" not in opened.names:
        raise ValueError(
            f"{path}: no column {'tag' if names else 'synapse_id'} among "
            f"{', '.join(opened.names)}; give a table of synapse_id and tag"
        )
    columns = {"id": Column(names[0], "id"), "tag": Column("tag", "text")}
    table = opened.read(columns).drop_null()
    return dict(zip(table["id"].to_pylist(), table["tag"].to_pylist(), strict=True))


def with_tags(subject: Subject, frame: pd.DataFrame) -> pd.DataFrame:
    """Add the column `tag`, empty where unknown, when tags were given."""
    if subject.tags is None:
        return frame
    return frame.assign(tag=frame["synapse_id"].map(subject.tags).fillna(""))


def index_frame(shards: ShardSet, split: str) -> pd.DataFrame:
    """Return a split's identities, with `row`, its place in the split's index."""
    table = shards.index(split).table.select([*IDENTITY_COLUMNS, "qc_flags"])
    frame: pd.DataFrame = table.to_pandas()
    return frame.assign(row=np.arange(len(frame)))


def _complete(frame: pd.DataFrame) -> pd.DataFrame:
    """Give a table the columns that baselines read: 0 or NaN where predictions left them out."""
    missing = {
        name: 0 if name.endswith("_id") else np.nan
        for name in ("post_root_id", "neuron_id", "synapse_id", "size", *CENTERS)
        if name not in frame
    }
    return frame.assign(**missing)


def rows_in_index(subject: Subject, split: str, frame: pd.DataFrame) -> Ints:
    """Return where in the shards' index each row of a predictions table stands; -1 if nowhere."""
    assert subject.shards is not None
    name = "key" if "key" in frame else "synapse_id"
    known = pd.Index(subject.shards.index(split).column(name))
    found: Ints = known.get_indexer(pd.Index(frame[name].to_numpy()))
    return found


def images_of(subject: Subject, split: str, rows: Ints) -> Images:
    """Return images (b, c, [z], y, x) at rows of a split's index."""
    assert subject.shards is not None
    return subject.shards.read_images(split, rows)


def box_nm(subject: Subject) -> tuple[float, float, float] | None:
    """Return an image's extent in x, y, z, a patch being one section thick; None if unknown."""
    if subject.shards is None:
        return None
    image = subject.shards.manifest.image
    z, y, x = image.shape[1:] if image.view == "cube" else (1, *image.shape[1:])
    if image.voxel_size_nm is None:
        return None
    vz, vy, vx = image.voxel_size_nm
    return x * vx, y * vy, z * vz


def centers_of(frame: pd.DataFrame) -> Floats:
    """Return centers (n, 3) in x, y, z nm."""
    return frame[CENTERS].to_numpy(np.float64)
