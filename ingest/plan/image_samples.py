"""Samples whose images exist already: which file is whose, and which files can be used."""

from collections import Counter
from pathlib import Path

import pandas as pd

from ingest.job.job_config import JobConfig
from ingest.plan.labels import Funnel
from ingest.tables.name_ids import key_of
from ingest.tables.synapse_tables import IMAGE_NAME
from ingest.volume.files.image_files import read_image
from ingest.volume.files.image_folder import is_image, local_folder
from shards.cli.progress import progress
from shards.images.gray import ImageError
from shards.workers.threads import Pool

READERS = 8  # threads
NAMED = 5  # files that an error names


def with_images(
    samples: pd.DataFrame, job: JobConfig, funnel: Funnel
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the samples that have an image, with its `file`, and the others, with a `reason`.

    Every file is read and must be what `read_image` expects. None that is, or more others than
    `qc.max_reject_fraction`, is a `ValueError`.
    """
    folder = local_folder(job.volume.path)
    samples = with_names(samples, job, folder, funnel)
    shape = job.samples.image_shape(next(iter(job.samples.views)))
    bad: dict[str, ImageError] = {}

    def check(name: str) -> None:
        try:
            read_image(folder / name, shape)
        except ImageError as error:
            bad[name] = error

    with progress("check images", len(samples)) as advance, Pool(READERS, "image") as pool:
        for _ in pool.map(check, samples.file):
            advance(1)
    reasons = samples.file.map(lambda name: bad[name].reason if name in bad else "")
    share = len(bad) / len(samples)
    if share == 1 or share > job.qc.max_reject_fraction:
        first = [name for name in samples.file if name in bad][:NAMED]
        raise ValueError(
            f"{folder}: {len(samples) - len(bad)} valid images of {len(samples)} "
            f"({_counts(reasons)}); first {', '.join(first)}; {first[0]}: {bad[first[0]]}; repair "
            "or remove them, correct samples.views, or raise qc.max_reject_fraction"
        )
    funnel.drop("image file that cannot be used", len(bad))
    rejects = samples[reasons != ""].assign(reason=reasons[reasons != ""])
    return samples[reasons == ""], rejects


def with_names(samples: pd.DataFrame, job: JobConfig, folder: Path, funnel: Funnel) -> pd.DataFrame:
    """Add `file`, the path below the folder; where the table gives it, also a key made of it."""
    if job.synapses.columns.file is None:
        here: dict[str, str] = {}
        for path in sorted(folder.iterdir()):
            if is_image(path) and here.setdefault(path.stem, path.name) != path.name:
                raise ValueError(
                    f"{folder}: {here[path.stem]} and {path.name} are both named by one id; "
                    "remove one of them"
                )
        ids = samples.get("synapse_name", samples.synapse_id).astype(str)
        if unnamed := len(set(here) - set(ids)):
            funnel.note("image files of no labelled synapse", unnamed)
        return samples.assign(file=[here.get(number, f"{number}.tif") for number in ids])
    names = samples[IMAGE_NAME].astype(str)
    keys = names.map(key_of)
    if keys.duplicated().any():
        twice = names[keys.duplicated(keep=False)].head(2)
        raise ValueError(f"{folder}: {' and '.join(twice)} make the same key; rename one of them")
    return samples.assign(file=names, key=keys)


def _counts(reasons: "pd.Series[str]") -> str:
    counts = Counter(reason for reason in reasons if reason)
    return ", ".join(f"{reason}: {count}" for reason, count in counts.most_common())
