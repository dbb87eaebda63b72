"""One reader of others, for `local_streaming.py`; runs in an environment that has it.

    python benchmarks/shards/peers.py webdataset|litdata|mosaicml FOLDER BATCH WORKERS

FOLDER/shards holds the tars. The peers' own formats are made from them once, beside them. Prints
{"gb_s": …} of the second epoch, without its first batch.
"""

import json
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np


def samples(folder: Path) -> Iterator[tuple[np.ndarray, int]]:
    """Yield (image, label) of every sample of the tars."""
    import webdataset

    urls = [str(path) for path in sorted((folder / "shards").glob("*.tar"))]
    for sample in webdataset.WebDataset(urls, shardshuffle=False).decode():
        yield sample["image.npy"], sample["cls"]


def webdataset_loader(folder: Path, batch: int, workers: int) -> Iterable[Any]:
    """Return WebDataset's own pipeline: shuffled shards, a buffer, batches in the workers."""
    import webdataset

    urls = [str(path) for path in sorted((folder / "shards").glob("*.tar"))]
    workers = min(workers, len(urls))
    data = (
        webdataset.WebDataset(
            urls, shardshuffle=len(urls), workersplitter=webdataset.split_by_worker
        )
        .shuffle(1000)
        .decode()
        .to_tuple("image.npy", "cls")
        .batched(batch)
    )
    return webdataset.WebLoader(data, batch_size=None, num_workers=workers)


def litdata_loader(folder: Path, batch: int, workers: int) -> Iterable[Any]:
    """Return LitData's streaming loader over its optimised chunks."""
    import litdata
    from litdata.streaming.writer import BinaryWriter

    cache = folder / "litdata"
    if not (cache / "index.json").exists():
        cache.mkdir(parents=True, exist_ok=True)
        writer = BinaryWriter(str(cache), chunk_bytes="64MB")
        for number, (image, label) in enumerate(samples(folder)):
            writer[number] = {"image": image, "label": label}
        writer.done()
        writer.merge()
    data = litdata.StreamingDataset(str(cache), shuffle=True, drop_last=False)
    return litdata.StreamingDataLoader(data, batch_size=batch, num_workers=workers)


def mosaicml_loader(folder: Path, batch: int, workers: int) -> Iterable[Any]:
    """Return MosaicML Streaming's dataset over its MDS shards."""
    import streaming
    from torch.utils.data import DataLoader

    local = folder / "mds"
    if not (local / "index.json").exists():
        columns = {"image": "ndarray:uint8", "label": "int"}
        with streaming.MDSWriter(out=str(local), columns=columns) as writer:
            for image, label in samples(folder):
                writer.write({"image": image, "label": label})
    data = streaming.StreamingDataset(local=str(local), shuffle=True, batch_size=batch)
    return DataLoader(data, batch_size=batch, num_workers=workers)


LOADERS = {
    "webdataset": webdataset_loader,
    "litdata": litdata_loader,
    "mosaicml": mosaicml_loader,
}


def rate(loader: Iterable[Any]) -> float:
    """Return GB/s of one epoch, without its first batch."""
    size, start = 0, 0.0
    for batch in loader:
        images = batch["image"] if isinstance(batch, dict) else batch[0]
        if not start:
            start = time.perf_counter()
        else:
            size += images.nbytes
    return size / (time.perf_counter() - start) / 1e9


def main() -> None:
    """Read two epochs and print the second one's rate."""
    name, folder, batch, workers = sys.argv[1:]
    loader = LOADERS[name](Path(folder), int(batch), int(workers))
    rate(loader)
    print(json.dumps({"gb_s": rate(loader)}))


if __name__ == "__main__":
    main()
