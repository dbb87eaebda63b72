"""x, y, z for all that a job's file holds; z, y, x in the records behind it."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from ingest.dataset import Layout
from ingest.job.job_file import load_job
from ingest.plan.make import plan_dataset
from ingest.plan.plan_record import read_plan
from ingest.tables.complete_job import complete_job

VIEWS = {
    "patch": {"size": [24, 20]},
    "cube": {"size": [16, 12, 8], "voxel_size_nm": [8, 8, 40]},
}


def test_a_job_is_turned_where_it_is_read(make_job: Any) -> None:
    job = load_job(make_job("file", views=VIEWS).write())
    assert job.volume.voxel_size_nm == (40, 8, 8)
    assert job.samples.views["patch"].size == (20, 24)
    assert job.samples.views["cube"].size == (8, 12, 16)
    assert job.samples.views["cube"].voxel_size_nm == (40, 8, 8)
    assert job.synapses.position_resolution_nm == (4, 4, 40)


def test_default_views_are_not_turned(make_job: Any) -> None:
    job = make_job()
    del job.config["samples"]["views"]
    assert load_job(job.write()).samples.views["cube"].size == (32, 128, 128)


def test_the_config_beside_a_plan_is_a_job_of_the_same_plan(make_job: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = load_job(make_job(views=VIEWS).write())
    plan_dataset(job, out)
    written = yaml.safe_load((out / "config.yaml").read_text())
    assert next(iter(written)) == "axes"
    assert written["samples"]["views"]["cube"]["size"] == [16, 12, 8]
    assert load_job(out / "config.yaml") == read_plan(Layout(out)).job == complete_job(job)
    plain = json.loads((out / "plan.json").read_text())["config"]
    assert plain["samples"]["views"]["cube"]["size"] == [8, 12, 16]


@pytest.mark.parametrize(
    ("axes", "message"),
    [(None, "key axes is missing: "), ("zyx", "axes is 'zyx', expected xyz: ")],
)
def test_a_job_without_axes_is_told_what_to_change(
    make_job: Any, axes: str | None, message: str
) -> None:
    job = make_job("file", views={"patch": {"size": [24, 24]}, "cube": {"size": [8, 16, 16]}})
    del job.config["axes"]
    job.config["volume"]["voxel_size_nm"] = [40, 8, 8]
    job.config |= {} if axes is None else {"axes": axes}
    path = job.write()
    with pytest.raises(ValueError, match="axes") as refused:
        load_job(path)
    assert str(refused.value) == (
        f"{path}: {message}whatever has axes in a job is x, y, z; write `axes: xyz` at its top, "
        "and reverse what is z, y, x: `volume.voxel_size_nm: [8, 8, 40]`, "
        "`samples.views.cube.size: [16, 16, 8]`"
    )


def test_errors_show_values_as_the_file_has_them(make_job: Any) -> None:
    path = make_job(views={"cube": {"size": [16, "many", 8]}}).write()
    with pytest.raises(ValueError, match=r"views.cube.size\[1\] is 'many', expected a valid int"):
        load_job(path)
    path = make_job(views={"cube": {"size": ["many", 12, 8]}}).write()
    with pytest.raises(ValueError, match=r"views.cube.size\[0\] is 'many', expected a valid int"):
        load_job(path)
