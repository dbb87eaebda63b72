"""A data set's images as TIFF files that ImageJ and napari open to scale."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile

from ingest.job.image_config import Channel, QcConfig, SampleConfig, ViewConfig, VolumeConfig
from ingest.job.job_config import Columns, JobConfig, LabelConfig, SplitConfig, SynapseConfig
from ingest.job.job_file import job_text
from shards.cli.progress import progress
from shards.contract.documents import parse_plain
from shards.contract.sample_store import DATASET, open_store
from shards.contract.schema import IDENTITY_COLUMNS, UNLABELLED, Dataset, ImageSpec, with_names
from shards.storage.atomic import TEMPORARY_PATTERN, atomic_write
from shards.storage.locks import sole_writer

NM_PER_UM = 1000.0
CENTERS = ("center_x_nm", "center_y_nm", "center_z_nm")
UNCERTAIN = (*CENTERS, "size")  # NaN where unknown


def export_tiff(root: Path, out: Path, view: str | None) -> int:
    """Write a finished data set's images as `out`/KEY.tif, and who they are as `out`/labels.csv.

    `view` is one of the data set's; None takes the cube where there is one. Axes are ImageJ's
    (z, c, y, x), voxel size in micrometres. The job `out`/job.yaml reads all of it back, with the
    same keys, labels and splits; there is none for samples without a label, which no job reads.
    Returns the number of images.
    """
    store = open_store(root)
    name, samples = view or min(store.dataset.views), store.samples.to_pandas()
    if name not in store.dataset.views:
        raise ValueError(f"{root}: no view {name}; it has {', '.join(store.dataset.views)}")
    files = store.files(name)
    samples = samples.assign(file=samples.key + ".tif")
    job = _job_of(store.dataset, name, samples, where=str(root / DATASET))
    with sole_writer(out), progress("export", len(samples)) as advance:
        for path in out.glob(TEMPORARY_PATTERN):  # what a killed export left
            path.unlink()
        for file_name, row in zip(samples.file, samples.row, strict=True):
            (image,) = files.read([row])
            write_tiff(out / file_name, image, store.dataset.views[name])
            advance(1)
        _write_labels(out / "labels.csv", samples, store.dataset.class_names)
        if (samples.label != UNLABELLED).all():
            with atomic_write(out / "job.yaml") as file:
                file.write(job_text(job).encode())
    return len(samples)


def _job_of(dataset: Dataset, view: str, samples: pd.DataFrame, *, where: str) -> JobConfig:
    """Return the job that reads an exported folder; paths are relative to the folder."""
    spec, known = dataset.views[view], {name: samples[name].notna().any() for name in UNCERTAIN}
    place = ", ".join(CENTERS) if all(known[name] for name in CENTERS) else None
    named = "synapse_name" in samples
    # Autapses are told by equal ids, and a neuron may go by its nucleus's id instead of a root's.
    are_roots = not named and (samples.neuron_id == samples.pre_root_id).all()
    neuron = "neuron_name" if named else "neuron_id"
    columns = Columns(
        synapse_id="synapse_name" if named else "synapse_id",
        pre_root_id=neuron if (samples.neuron_id != 0).any() else None,
        post_root_id="post_root_id" if are_roots and (samples.post_root_id != 0).any() else None,
        size="size" if known["size"] else None,
        pre=None,
        ctr=place,
        post=None,
        file="file",
    )
    planned = dataset.config.get("qc")
    limits = planned if isinstance(planned, dict) else {}
    qc = {field.name: limits[field.name] for field in fields(QcConfig) if field.name in limits}
    return JobConfig(
        ids="names" if named else "numbers",
        volume=VolumeConfig(path=".", format="images", voxel_size_nm=spec.size_nm),
        synapses=SynapseConfig(
            path="labels.csv", position_resolution_nm=(1.0, 1.0, 1.0), columns=columns
        ),
        labels=LabelConfig(class_names=dataset.class_names, column="label"),
        splits=SplitConfig(by="column", column="split", overlap="keep"),
        samples=SampleConfig(
            center="ctr",
            views={view: ViewConfig(size=spec.shape[1:])},
            channels=parse_plain(tuple[Channel, ...], list(spec.channels), where=where, cure=""),
        ),
        qc=parse_plain(QcConfig, qc, where=f"{where}: config.qc", cure="run the ingest again"),
    )


def write_tiff(path: Path, image: np.ndarray, spec: ImageSpec) -> None:
    """Write an image (c, [z], y, x) as ImageJ does: to scale, channels named and laid over."""
    z_nm, y_nm, x_nm = spec.size_nm
    sections_zcyx = image[None] if spec.view == "patch" else image.transpose(1, 0, 2, 3)
    metadata: dict[str, object] = {"axes": "ZCYX", "spacing": z_nm / NM_PER_UM, "unit": "um"}
    if len(image) > 1:
        metadata |= {"mode": "composite", "Labels": list(spec.channels) * len(sections_zcyx)}
    resolution = NM_PER_UM / x_nm, NM_PER_UM / y_nm
    with atomic_write(path) as file:
        tifffile.imwrite(file, sections_zcyx, imagej=True, resolution=resolution, metadata=metadata)


def _write_labels(path: Path, samples: pd.DataFrame, class_names: tuple[str, ...]) -> None:
    names = dict(enumerate(class_names))
    columns = [*with_names(IDENTITY_COLUMNS, samples), "split", "file"]
    labels = samples[columns].assign(label=samples.label.map(names))
    with atomic_write(path) as file:
        file.write(labels.to_csv(index=False).encode())
