"""Whatever a job, an info, or a data set's own documents hold: a right value or one line."""

import errno
import json
import random
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from ingest.__main__ import main
from ingest.dataset import Layout
from ingest.job.job_file import load_job
from ingest.plan.make import plan_dataset
from ingest.plan.plan_record import read_plan
from ingest.volume.volume_info import parse_info
from shards.cli.command import run_command

ODD: tuple[Any, ...] = (None, True, 0, -1, 1e400, 2**70, "x", "", [], {}, [[]], {"a": 1}, [None])


@pytest.fixture
def info(formula_volumes: dict[str, Path]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((formula_volumes["sharded"] / "info").read_text())
    return found


def refusal(call: Callable[[], object], *, of: str) -> str | None:
    """Return the line by which a call refuses its input; it starts by naming the input."""
    try:
        call()
    except ValueError as error:
        text = str(error)
    else:
        return None
    assert text.startswith(of)
    assert "\n" not in text
    return text


def mutated(value: Any, rng: random.Random) -> Any:
    """Return a copy with one part, anywhere, replaced by an odd value, removed or renamed."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.15:
        return rng.choice(ODD)
    if isinstance(value, list):
        place = rng.randrange(len(value))
        return [mutated(v, rng) if k == place else v for k, v in enumerate(value)]
    place = rng.choice(sorted(value))
    match rng.randrange(8):
        case 0:
            return {k: v for k, v in value.items() if k != place}
        case 1:
            return {(f"{k}s" if k == place else k): v for k, v in value.items()}
    return {k: mutated(v, rng) if k == place else v for k, v in value.items()}


def test_any_job_is_read_or_refused_in_one_line(make_job: Any) -> None:
    job = make_job()
    job.write()
    path, rng, read = job.folder / "odd.yaml", random.Random(5), 0
    for _ in range(400):
        path.write_text(yaml.safe_dump(mutated(job.config, rng)))
        read += refusal(partial(load_job, path), of=str(path)) is None
    assert 0 < read < 200


def test_any_info_is_read_or_refused_in_one_line(info: dict[str, Any]) -> None:
    rng, read = random.Random(6), 0
    for _ in range(400):
        data = json.dumps(mutated(info, rng)).encode()
        read += refusal(partial(parse_info, data, where="em/info"), of="em/info: ") is None
    assert 0 < read < 200


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i: i.pop("num_channels"), "em/info: key num_channels is missing"),
        (
            lambda i: i["scales"][0].update(chunk_sizes=[8, 8, 8]),
            r"chunk_sizes\[0\] is 8, expected",
        ),
        (lambda i: i["scales"][0].update(size=[0, 1, 1]), r"scales\[0\]\.size\[0\] is 0, expected"),
        (lambda i: i["scales"][-1].update(size=[-5, 1, 1]), r"size\[0\] is -5"),
        (lambda i: i["scales"][0].update(size=[10**30, 1, 1]), r"size\[0\] is 10{30}"),
        (lambda i: i["scales"][0].update(resolution=[0, 8, 40]), r"resolution\[0\] is 0"),
        (lambda i: i["scales"][0].update(size=[2**30] * 3), "more than 4611686018427387904 voxels"),
        (
            lambda i: i["scales"][0].update(size=[2**15] * 3, chunk_sizes=[[2**15] * 3]),
            "raise SYNSHARDS_IMAGE_GB",
        ),
        (lambda i: i["scales"][0]["sharding"].update(minishard_bits=99), "minishard_bits is 99"),
        (lambda i: i.update(scales=[]), "scales is"),
    ],
)
def test_a_wrong_info_names_file_and_key(
    make_job: Any, info: dict[str, Any], tmp_path: Path, change: Callable[[Any], Any], message: str
) -> None:
    change(info)
    (tmp_path / "em").mkdir()
    (tmp_path / "em" / "info").write_text(json.dumps(info))
    job = make_job()
    job.config["volume"]["path"] = "em"
    planning = partial(plan_dataset, load_job(job.write()), tmp_path / "out")
    assert re.search(message, refusal(planning, of=f"{tmp_path}/em/info: ") or "")
    assert not (tmp_path / "out").exists()


def test_whole_numbers_may_be_written_as_floats(info: dict[str, Any]) -> None:
    scale = info["scales"][0]
    size = tuple(scale["size"])
    scale["size"] = [float(side) for side in size]
    assert parse_info(json.dumps(info).encode(), where="info").scales[0].size == size


def test_a_single_value_stands_for_a_list_of_one(make_job: Any) -> None:
    job = make_job()
    table = {"path": "t.csv", "column": "c", "classes": {2: "excitatory", True: "inhibitory"}}
    job.config["labels"] = {"tables": table, "tiers": "manual"}
    job.config["samples"]["channels"] = "em"
    labels = load_job(job.write()).labels
    assert labels.tiers == ("manual",)
    assert labels.tables[0].classes == {"2": "excitatory", "true": "inhibitory"}


def test_passwords_in_urls_are_stored_nowhere(make_job: Any, tmp_path: Path) -> None:
    job = make_job()
    job.config["volume"]["segmentation"] = "precomputed://https://ada:secret@example.org/seg"
    out = tmp_path / "out"
    plan_dataset(load_job(job.write()), out)
    assert read_plan(Layout(out)).job.volume.segmentation == "precomputed://https://example.org/seg"
    for path in (p for p in out.rglob("*") if p.is_file()):
        assert b"secret" not in path.read_bytes()


@pytest.mark.parametrize("name", ["plan.json", "dataset.json"])
def test_any_document_of_ours_is_read_or_refused_in_one_line(
    module_job: Any, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    plan_dataset(load_job(module_job.write()), out)
    value: Any = json.loads((out / "plan.json").read_text())
    del value["document_sha256"]
    rng = random.Random(7)
    for odd in [*ODD, *(mutated(value, rng) for _ in range(40))]:
        (out / name).write_text(json.dumps(odd))
        code = run_command(main, ["inspect", str(out)])
        said = capsys.readouterr().err
        assert code == 0 or len(said.splitlines()) == 1, said
        assert "defect" not in said


@pytest.mark.parametrize("command", ["plan", "run", "finish"])
def test_a_full_disk_is_one_line_that_names_file_and_cure(
    make_job: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    config, out = make_job().write(), tmp_path / "out"
    steps: dict[str, list[str]] = {
        "plan": ["plan", str(config), "--out", str(out)],
        "run": ["run", str(out)],
        "finish": ["finish", str(out)],
    }
    for name, arguments in steps.items():
        if name == command:
            break
        assert run_command(main, arguments) == 0
    before = {path for path in out.rglob("*") if path.is_file()}
    capsys.readouterr()
    with monkeypatch.context() as patch:

        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr("shards.storage.atomic.os.fsync", full)
        assert run_command(main, steps[command]) == 1
    said = capsys.readouterr().err
    assert len([line for line in said.splitlines() if "error" in line]) == 1, said
    assert "Traceback" not in said
    assert str(out) in said
    assert "free" in said
    left = {path for path in out.rglob("*") if path.is_file()} - before
    assert not [path for path in left if path.name.startswith(".")]
    assert run_command(main, steps[command]) == 0


def test_a_volume_that_is_a_file_or_missing(make_job: Any, tmp_path: Path) -> None:
    job = make_job()
    for path in ("nowhere", "synapses.parquet"):
        job.config["volume"]["path"] = path
        with pytest.raises(ValueError, match=f"{path}: no volume there"):
            plan_dataset(load_job(job.write()), tmp_path / "out")
