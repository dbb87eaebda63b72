"""Libraries tried in place of our own code, side by side.

Usage: python benchmarks/libraries.py store|folds|tables|layer|tars|metrics [FOLDER]

FOLDER is for files (a temporary folder; one in /dev/shm leaves the disk out). The libraries that
the project does not need (zarrs, ngsidekick, tensorstore) are needed here.
"""

import sys
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import zarr

from shards.contract.sample_store import create_store, open_for_write, write_rows
from shards.contract.schema import ImageSpec
from shards.contract.zarr_shard import ShardFiles

ROUNDS = 3
ROWS = 64  # per zarr shard
PIPELINES = {
    "zarr-python": "zarr.core.codec_pipeline.BatchedCodecPipeline",
    "zarrs": "zarrs.ZarrsCodecPipeline",
}


def made_up(number: int, neurons: int, first: int) -> pa.Table:
    """Return predictions of synapses of neurons of alternating class."""
    rng = np.random.default_rng(0)
    neuron = rng.integers(0, neurons, number)
    evidence = (neuron % 2 - 0.5) + rng.standard_normal(neurons)[neuron]
    return pa.table(
        {
            "synapse_id": first + np.arange(number),
            "neuron_id": first + neuron,
            "pre_root_id": 864691135000000000 + neuron,
            **{f"center_{axis}_nm": rng.uniform(0, 1e6, number) for axis in "xyz"},
            "label": (neuron % 2).astype(np.int16),
            "probability": 1 / (1 + np.exp(-2 * (evidence + rng.standard_normal(number)))),
        }
    )


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds by the clock and of the processor that work takes."""
    wall, core = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - core


def say(name: str, rounds: list[tuple[float, float]], note: str = "") -> None:
    """Print the median of the rounds."""
    wall, core = np.median(np.array(rounds), axis=0)
    print(f"{name:44} {wall:9.3f} s   {core:9.3f} core s   {note}", flush=True)


def store(folder: Path) -> None:
    """Write and read a sample store: ours, zarr-python's sharding codec, zarrs."""
    for shape, count in (((1, 32, 128, 128), 128), ((1, 256, 256), 512)):
        spec = ImageSpec(
            shape=shape, dtype="uint8", channels=("em",), voxel_size_nm=(40.0, 8.0, 8.0)
        )
        print(f"{count} images of {shape}, {count * spec.nbytes / 1e6:.0f} MB")
        taken: dict[str, list[tuple[float, float]]] = {}
        for _ in range(ROUNDS):
            for name in ("ours", *PIPELINES):
                steps = _write_and_read(folder / name, spec, count, name)
                for what, took in zip(("write", "read"), steps, strict=True):
                    taken.setdefault(f"{what}, {name}", []).append(took)
        for what in sorted(taken):
            say(what, taken[what])


def _write_and_read(
    folder: Path, spec: ImageSpec, count: int, name: str
) -> list[tuple[float, float]]:
    """Time writing all images, and reading them one by one in random order.

    Of zarr's ways to read some rows the one by one is the quickest: `oindex` takes seconds.
    """
    zarr.config.set({"codec_pipeline.path": PIPELINES.get(name, PIPELINES["zarr-python"])})
    create_store(folder, {spec.view: spec}, count, ROWS)
    array, rng = open_for_write(folder, spec.view), np.random.default_rng(0)
    noise = rng.integers(1, 256, (ROWS, *spec.shape), dtype=np.uint8)
    order, starts = rng.permutation(count), range(0, count, ROWS)
    if name == "ours":
        files = ShardFiles(array, folder / "samples.zarr" / spec.view)
        return [
            timed(lambda: [write_rows(array, at, noise) for at in starts]),
            timed(lambda: [files.read([row]) for row in order.tolist()]),
        ]
    return [
        timed(lambda: [array.__setitem__(slice(at, at + ROWS), noise) for at in starts]),
        timed(lambda: [array[row] for row in order.tolist()]),
    ]


def folds(_: Path) -> None:
    """Deal neurons to five folds: ours, scikit-learn's StratifiedGroupKFold."""
    from sklearn.model_selection import StratifiedGroupKFold

    from shards.pack.deal import deal_groups

    def by_sklearn(neurons: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
        dealt = np.empty(len(neurons), np.int64)
        cut = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
        for number, (_, tested) in enumerate(cut.split(neurons, labels, neurons)):
            dealt[tested] = number
        return dealt

    ways = {
        "ours": lambda n, c, seed: deal_groups(n, c, np.full(5, 0.2), seed),
        "StratifiedGroupKFold": by_sklearn,
    }
    for count, seeds in ((20, 5), (60, 5), (400, 3), (5000, 1)):
        rng = np.random.default_rng(0)
        sizes = np.maximum(1, rng.lognormal(3, 1, count).astype(int))
        of_neuron = (rng.random(count) > 0.2).astype(np.int16)
        neurons, labels = np.repeat(np.arange(count), sizes), np.repeat(of_neuron, sizes)
        for name, way in ways.items():
            taken, off, results = [], [], set()
            for seed in range(seeds):
                wall, core = time.perf_counter(), time.process_time()
                dealt = way(neurons, labels, seed)
                taken.append((time.perf_counter() - wall, time.process_time() - core))
                frame = pd.DataFrame({"neuron": neurons, "fold": dealt, "class": labels})
                off.append([_off(frame), _off(frame.drop_duplicates("neuron"))])
                parts = frame.groupby("fold").neuron.unique()
                results.add(frozenset(frozenset(part.tolist()) for part in parts))
            by_sample, by_neuron = np.mean(off, axis=0)
            note = f"off the mean of a class: samples {by_sample:.0%}, neurons {by_neuron:.0%}; "
            say(f"{count} neurons, {name}", taken, f"{note}{len(results)} results of {seeds} seeds")


def _off(frame: pd.DataFrame) -> float:
    """Return by how much a fold may be off the mean number of a class."""
    counts = pd.crosstab(frame["class"], frame.fold).reindex(columns=range(5), fill_value=0)
    return float(np.abs(counts.div(counts.mean(axis=1), axis=0) - 1).to_numpy().max())


def tables(folder: Path) -> None:
    """Stream a table of 2 million rows from parquet and CSV: ours, pyarrow.dataset."""
    import pyarrow.dataset as ds
    import pyarrow.parquet as pq
    from pyarrow import csv

    from shards.tabular.table_files import Column, open_table_file

    table = made_up(2_000_000, 4000, first=864691135000000000)
    pq.write_table(table, folder / "t.parquet", row_group_size=1 << 18)
    csv.write_csv(table, folder / "t.csv")
    names = ["synapse_id", "pre_root_id", "center_x_nm", "center_y_nm", "center_z_nm"]
    columns = {name: Column(name, "id" if name.endswith("_id") else "number") for name in names}
    for kind in ("parquet", "csv"):
        path = folder / f"t.{kind}"
        taken: dict[str, list[tuple[float, float]]] = {"ours": [], "pyarrow.dataset": []}
        for _ in range(ROUNDS):
            taken["ours"].append(
                timed(lambda: [len(b) for b in open_table_file(str(path)).batches(columns)])  # noqa: B023
            )
            taken["pyarrow.dataset"].append(
                timed(lambda: [len(b) for b in ds.dataset(path, format=kind).to_batches(names)])  # noqa: B023
            )
        for name, rounds in taken.items():
            say(f"{kind}, {name}", rounds)
    ids = pa.array([864691135000000001, None, 864691135000000003])
    odd = {
        "ids with a gap, written as floats": ids.cast(pa.float64(), safe=False),
        "ids as text, one cell a word": pa.array(["864691135000000001", "see note", "3"]),
    }
    for what, column in odd.items():
        csv.write_csv(pa.table({"id": column, "x": [1, 2, 3]}), folder / "odd.csv")
        for name, read in {
            "ours": lambda: open_table_file(str(folder / "odd.csv")).read(
                {"id": Column("id", "id")}
            ),
            "pyarrow.dataset": lambda: ds.dataset(folder / "odd.csv", format="csv").to_table(),
        }.items():
            try:
                print(f"{what}, {name}: {read()['id'].to_pylist()}")
            except ValueError as error:
                print(f"{what}, {name}: {str(error)[:120]}")


def layer(folder: Path) -> None:
    """Write 200,000 predictions as an annotation layer: ours, ngsidekick."""
    from ngsidekick.annotations.precomputed import write_precomputed_annotations

    from eval.inputs.predictions import PredictionsInfo
    from eval.report.neuroglancer_layer import layer_of, write_layer

    info = PredictionsInfo()
    frame = made_up(200_000, 1000, first=1).to_pandas()

    def ours() -> None:
        write_layer(folder / "ours", layer_of(frame, info, where="made up"), info.class_names)

    points = frame.set_index("synapse_id")
    points = points.rename(columns={f"center_{axis}_nm": axis for axis in "xyz"})
    points["probability"] = points.probability.astype(np.float32)
    points["neuron"] = points.pre_root_id.astype(np.uint64)

    def theirs(*, spatial: bool) -> None:
        write_precomputed_annotations(
            points[["x", "y", "z", "neuron", "probability"]],
            "xyz",
            "point",
            properties=["probability"],
            relationships=["neuron"],
            output_dir=str(folder / "theirs"),
            write_by_spatial_chunk=spatial,
        )

    say("ours, by id, neuron and place", [timed(ours) for _ in range(ROUNDS)])
    say("ngsidekick, by id and neuron", [timed(lambda: theirs(spatial=False))])
    try:
        say("ngsidekick, by id, neuron and place", [timed(lambda: theirs(spatial=True))])
    except Exception as error:  # noqa: BLE001 (whatever the library raises is the result)
        print(f"ngsidekick, by place: {type(error).__name__}: {str(error)[:120]}")


def tars(folder: Path) -> None:
    """Read tars cut short or overwritten with zeros: ours, webdataset's reading and grouping."""
    from webdataset.tariterators import group_by_keys, tar_file_iterator

    from shards.images.limits import max_image_bytes
    from shards.pack.foreign_samples import Seen, samples_of
    from shards.pack.tar_reader import read_tar
    from shards.storage.local import HashedFile, open_storage

    rng, plain = np.random.default_rng(0), BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for number in range(40):
            for kind, data in (("npy", rng.bytes(5000)), ("cls", b"1")):
                member = tarfile.TarInfo(f"s{number:03d}.{kind}")
                member.size = len(data)
                tar.addfile(member, BytesIO(data))
    whole = plain.getvalue()
    silent = {"ours": 0, "webdataset": 0}
    damaged = 200
    for number in range(damaged):
        sample = whole.index(f"s{rng.integers(1, 40):03d}.npy".encode())
        at = sample + 512 * int(rng.integers(12))
        broken = whole[:at] if number % 2 else whole[:sample] + bytes(1024) + whole[sample + 1024 :]
        (folder / "train-0.tar").write_bytes(broken)
        storage = open_storage(str(folder))

        def ours() -> int:
            file = HashedFile(storage, "train-0.tar")  # noqa: B023
            return len(list(samples_of(read_tar(file, "t", max_image_bytes()), "t", Seen())))

        def theirs() -> int:
            members = tar_file_iterator(BytesIO(broken))  # noqa: B023
            return len(list(group_by_keys({**member, "__url__": "t"} for member in members)))

        for name, read in (("ours", ours), ("webdataset", theirs)):
            try:
                read()
            except (ValueError, tarfile.TarError, EOFError, OSError):
                continue
            silent[name] += 1
    for name, count in silent.items():
        print(f"{name}: {count} of {damaged} damaged tars read to their end without a word")


def metrics(_: Path) -> None:
    """Bootstrap 100,000 predictions of 500 neurons 20 times: ours, scikit-learn with weights."""
    from sklearn import metrics as sk

    from eval.metrics.bootstrap import (
        Scored,
        bootstrap_ranks,
        bootstrap_sums,
        draw,
        strata_of,
    )
    from eval.metrics.metrics import rankings

    num = 20
    table = made_up(100_000, 500, first=1)
    labels = table["label"].to_numpy().astype(np.int64)
    ones = table["probability"].to_numpy()
    probabilities = np.stack([1 - ones, ones], axis=1)
    groups = np.unique(table["neuron_id"].to_numpy(), return_inverse=True)[1]
    scored = Scored(
        labels=labels,
        probabilities=probabilities,
        groups=groups,
        num_groups=int(groups.max()) + 1,
        tau=0.5,
    )
    strata = strata_of(scored.labels, scored.groups, scored.num_groups)

    def ours() -> dict[str, np.ndarray]:
        sums = bootstrap_sums(scored.sums(), strata, num=num)
        return sums | bootstrap_ranks(scored, rankings(scored.probabilities), strata, num)

    def theirs() -> dict[str, np.ndarray]:
        found: dict[str, list[float]] = {}
        for weights in draw(strata, num):
            for of_neuron in weights:
                weight = of_neuron[groups]
                pair = {"y_true": labels, "y_pred": scored.predicted, "sample_weight": weight}
                one = {"y_true": labels, "y_score": ones, "sample_weight": weight}
                for name, value in (
                    ("balanced_accuracy", sk.balanced_accuracy_score(**pair)),
                    ("f1", sk.f1_score(**pair)),
                    ("mcc", sk.matthews_corrcoef(**pair)),
                    ("auroc", sk.roc_auc_score(**one)),
                    ("average_precision", sk.average_precision_score(**one)),
                ):
                    found.setdefault(name, []).append(value)
        return {name: np.array(values) for name, values in found.items()}

    say("ours, all metrics", [timed(ours) for _ in range(ROUNDS)])
    say("scikit-learn, five metrics", [timed(theirs)])
    mine, other = ours(), theirs()
    for name, values in other.items():
        print(f"{name}: largest difference {np.abs(values - mine[name]).max():.1e}")


TRIALS = {
    "store": store,
    "folds": folds,
    "tables": tables,
    "layer": layer,
    "tars": tars,
    "metrics": metrics,
}


def main() -> None:
    """Run one trial."""
    warnings.filterwarnings("ignore", category=UserWarning)
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as folder:
        TRIALS[sys.argv[1]](Path(folder))


if __name__ == "__main__":
    main()
