"""The command line of shards: argument parsing only.

A command imports what it needs when it is called, so that --help answers at once.
"""

import signal
import sys

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
    # Ctrl-C while modules are imported ends the process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from shards.cli.arguments import Group, run_named
from shards.cli.command import run_command

Out = Annotated[str, tyro.conf.arg(metavar="URL")]


def pack_command(
    dataset: Positional[Path],
    *,
    view: str,
    out: Out,
    samples_per_shard: int | None = None,
    seed: int = 42,
    workers: int = 2,
    scheduler: Literal["threads", "processes"] = "threads",
    unlabelled: Literal["leave-out", "keep"] = "leave-out",
    exclude_flags: tuple[str, ...] = (),
    folds: int | None = None,
) -> None:
    """Write a sample store as shuffled WebDataset shards with index and manifest.

    The same store and options give the same bytes; an interrupted run continues.

    Example: python -m shards pack runs/demo/dataset --view cube --out runs/demo/shards/cube

    Args:
        dataset: folder that `python -m ingest finish` completed
        view: which of the store's images: patch, cube, or what else the ingest job calls them
        out: where the shards go
        samples_per_shard: at most so many samples a tar; tars of about 256 MB when not given
        seed: of the shuffle
        workers: shards written at a time
        scheduler: Dask's: threads or processes
        unlabelled: leave samples without a label out, or keep them in the split they have
        exclude_flags: leave samples with these QC flags out
        folds: split anew by neuron, for a cross-validation of so many folds over the same tars:
            fold I tests on part I, validates on the next part, trains on the others
    """
    from shards.cli.describe_shards import describe
    from shards.pack.assign import PackOptions
    from shards.pack.write_shards import pack
    from shards.stream.shardset import open_shards

    options = PackOptions(
        samples_per_shard=samples_per_shard,
        seed=seed,
        unlabelled=unlabelled,
        exclude_flags=exclude_flags,
        folds=folds,
    )
    pack(dataset, view, out, options, workers=workers, scheduler=scheduler)
    with open_shards(out, fold=None if folds is None else 0) as shards:
        print(describe(shards))


def inspect_command(
    url: Positional[Out], *, fold: int | None = None, sheet: Path | None = None, seed: int = 42
) -> None:
    """Say what a shard set holds; with --sheet, show examples of every split and class as a PNG.

    Example: python -m shards inspect runs/demo/shards/cube --sheet cubes.png

    Args:
        url: of the shard set
        fold: of a cross-validation
        sheet: where to write the contact sheet
        seed: of the choice of examples
    """
    from shards.cli.describe_shards import describe, examples_sheet
    from shards.stream.shardset import open_shards

    with open_shards(url, fold=fold) as shards:
        print(describe(shards))
        if sheet is not None:
            examples_sheet(shards, sheet, seed=seed)
            print(f"examples in {sheet}")


def verify_command(
    url: Positional[Out], *, fold: int | None = None, fast: bool = False, workers: int = 2
) -> None:
    """Check every hash, member, label and place of a shard set; name each fault; fail on any.

    Example: python -m shards verify runs/demo/shards/cube

    Args:
        url: of the shard set
        fold: of a cross-validation
        fast: sizes and indices only, without reading the tars
        workers: shards read at a time
    """
    from shards.pack.verify import verify

    faults = verify(url, fold=fold, fast=fast, workers=workers)
    for fault in faults:
        print(fault)
    if faults:
        raise ValueError(f"{url}: {len(faults)} faults; copy the shards again, or pack again")
    print(f"{url}: no faults")


def copy_command(
    source: Positional[Out],
    target: Positional[Out],
    *,
    fold: int | None = None,
    workers: int = 4,
) -> None:
    """Copy a shard set to another URL, checked by hash; what is there already is kept.

    Example: python -m shards copy runs/demo/shards/cube s3://bucket/cube

    Args:
        source: URL to copy from
        target: URL to copy to: a path, s3:// or gs://
        fold: of a cross-validation; tars that are there already are kept
        workers: files copied at a time
    """
    from shards.pack.copy import copy

    copy(source, target, fold=fold, workers=workers)
    print(f"{target}: complete")


def serve_command(folder: Positional[Path], *, port: int = 8000, host: str = "127.0.0.1") -> None:
    """Serve a folder of shards over HTTP with ranges until interrupted, for trying.

    Example: python -m shards serve runs/demo/shards/cube --port 8000

    Args:
        folder: what to serve
        port: to listen on; 0 takes a free one
        host: address to listen on
    """
    from shards.cli.serve import serving
    from shards.stream.shardset import open_shards

    if not any(folder.glob("manifest*.json")):
        open_shards(str(folder)).close()
    with serving(folder, host=host, port=port) as url:
        print(f"serving {folder} at {url} until interrupted", flush=True)
        threading.Event().wait()


def index_command(
    url: Positional[Out],
    *,
    split: Literal["", "train", "val", "test"] = "",
    class_names: tuple[str, ...] = (),
    voxel_size_nm: tuple[float, float, float] | None = None,
    force: bool = False,
) -> None:
    """Write index and manifest for WebDataset tars that others wrote, so that they stream too.

    Each sample needs one image of uint8: .npy, which streams as fast as our own, or .png, .jpg or
    .tif, which is decoded each time. Its label is in .cls, or under `label` in .json: a class
    number or the name of a class. Ids are taken from .json: synapse_id, neuron_id, pre_root_id,
    post_root_id, nucleus_id, center_x_nm, center_y_nm, center_z_nm, size. As in WebDataset, a key
    ends at the first dot of a file's name.

    Example: python -m shards index s3://bucket/their-set --class-names inhibitory excitatory

    Args:
        url: folder or prefix that holds the tars
        split: of all tars; taken from the start of each name when empty
        class_names: of labels 0, 1, …
        voxel_size_nm: z y x; unknown when not given
        force: replace a manifest.json that `shards index` did not write
    """
    from shards.cli.describe_shards import describe
    from shards.pack.import_webdataset import ForeignSpec, index_tars
    from shards.stream.shardset import open_shards

    spec = ForeignSpec(split=split, class_names=class_names, voxel_size_nm=voxel_size_nm)
    index_tars(url, spec, force=force)
    with open_shards(url) as shards:
        print(describe(shards))


def bench_command(
    url: Positional[Out],
    *,
    split: Literal["train", "val", "test"] = "train",
    batch_size: int = 32,
    threads: int | None = None,
    seconds: float = 10.0,
    window_shards: int | None = None,
    around: int | None = None,
    step_ms: float | None = None,
    fold: int | None = None,
) -> None:
    """Measure how fast this machine reads a shard set, and the headroom for a given step time.

    Example: python -m shards bench runs/demo/shards/cube --batch-size 32 --step-ms 250

    Args:
        url: of the shard set
        split: to read
        batch_size: samples a batch
        threads: that read; 2, or 16 for remote shards, when not given
        seconds: at most for each measurement
        window_shards: shuffle within windows of so many shards instead of the whole split
        around: read the middle section of cubes and so many on either side instead of all
        step_ms: time of a training step, to compare with
        fold: of a cross-validation
    """
    from shards.cli.bench import BenchSpec, bench
    from shards.stream.order import OrderSpec
    from shards.stream.section_view import Sections

    spec = BenchSpec(
        split=split,
        batch_size=batch_size,
        threads=threads,
        seconds=seconds,
        order=OrderSpec(window_shards=window_shards),
        sections=None if around is None else Sections(around=around),
    )
    print("\n".join(bench(url, spec, step_ms, fold=fold)))


COMMANDS: dict[str, Callable[..., Any]] = {
    "pack": pack_command,
    "inspect": inspect_command,
    "verify": verify_command,
    "index": index_command,
    "bench": bench_command,
    "copy": copy_command,
    "serve": serve_command,
}


def group() -> Group:
    """Return the commands."""
    return Group(about=sys.modules["shards"].__doc__ or "", commands=COMMANDS)


def main(args: list[str], prog: str = "python -m shards") -> None:
    """Run one of the commands."""
    run_named(group(), args, prog=prog)


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
