"""The text of scripts: golden files, and words that must come through bash as they went in."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm import chains as stages
from slurm.job import ArrayJob, Environment, Resources, Step, split_tasks
from slurm.records import read_tasks
from slurm.script import render, render_array
from slurm.sites.site import load_site
from slurm.submit import Request, dry_run

GOLDEN = Path(__file__).with_name("golden")
OPTIONS = {"": {"account": "synapses", "mail-user": "me@lab.edu", "mail-type": "END,FAIL"}}


def request(
    steps: tuple[Step, ...],
    site: str = "generic",
    *,
    limit: int | None = None,
    **options: dict[str, str],
) -> Request:
    return Request(
        steps=tuple(replace(step, limit=limit) for step in steps),
        site=load_site(site, python="python"),
        options={**OPTIONS, **options},
        workdir=Path("/lab/synapses"),
        run=Path("/lab/synapses/runs/it's a run"),
        retry="python -m slurm submit ... --resume",
    )


def ingest(num_tasks: int) -> tuple[Step, ...]:
    return stages.ingest("data/v 1", num_tasks=num_tasks, extra=())


def sweep() -> tuple[Step, ...]:
    urls = ["s3://lab/fold0/cube", "s3://lab/fold1/cube"]
    runs = stages.sweep(["unet3d"], urls, [1, 2], Path("runs/sweep"))
    return (stages.train(runs, extra=("--lr", "$(rm -rf ~)")),)


def pipeline(num_folds: int | None = None) -> tuple[Step, ...]:
    return stages.pipeline(
        "ingest.yaml",
        Path("runs/v1"),
        {"patch": ["resnet50"], "cube": ["unet3d"]},
        num_tasks=8,
        num_folds=num_folds,
        seeds=(),
        extra=(),
    )


CASES = {
    "ingest": request(ingest(8), limit=2),
    "sweep_two_nodes": request(sweep(), "hyak", limit=2, train={"nodes": "2", "gres": "gpu:a40:4"}),
    "pipeline": request(pipeline(), limit=2),
}


@pytest.mark.parametrize("name", CASES)
def test_scripts_are_as_they_were(name: str) -> None:
    path = GOLDEN / f"{name}.sh"
    text = "".join(dry_run(CASES[name], 1001))
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text(), f"UPDATE_GOLDEN=1 pytest {__file__} writes {path.name} anew"


@pytest.mark.parametrize("name", CASES)
def test_golden_scripts_are_bash(name: str) -> None:
    subprocess.run(["bash", "-n", GOLDEN / f"{name}.sh"], check=True)


def array_job(commands: tuple[tuple[str, ...], ...], folder: Path) -> ArrayJob:
    return ArrayJob(
        step=Step(name="train", commands=commands),
        tasks=range(len(commands)),
        resources=Resources(),
        environment=Environment(python="printf"),
        workdir=folder,
        folder=folder,
    )


def run_task(job: ArrayJob, index: int, **environment: str) -> subprocess.CompletedProcess[bytes]:
    (job.folder / "tasks" / "train").mkdir(parents=True, exist_ok=True)
    slurm = {"SLURM_ARRAY_TASK_ID": str(index), "SLURM_JOB_ID": "7", "SLURMD_NODENAME": "n1"}
    return subprocess.run(
        ["bash"],
        input=render(job).encode(),
        env={"PATH": os.environ["PATH"], **slurm, **environment},
        cwd=job.workdir,
        capture_output=True,
        check=False,
    )


words = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=1)


@settings(max_examples=25)
@given(first=words, second=words)
def test_words_reach_the_command(
    tmp_path_factory: pytest.TempPathFactory, first: list[str], second: list[str]
) -> None:
    commands = (("%s\\0", *first), ("%s\\0", *second))
    job = array_job(commands, tmp_path_factory.mktemp('it\'s $HOME "here"'))
    for index, given_words in enumerate((first, second)):
        result = run_task(job, index)
        assert result.stdout.decode().split("\0")[:-1] == given_words
        assert read_tasks(job.folder, "train")[index].state == "done"


def test_a_task_keeps_its_own_record(tmp_path: Path) -> None:
    job = array_job((("-c", "exit 3"),), tmp_path)
    result = run_task(replace(job, environment=Environment(python="bash")), 0)
    record = read_tasks(tmp_path, "train")[0]
    assert (result.returncode, record.state, record.exit_code) == (3, "failed", 3)
    assert (record.job_id, record.node) == ("7", "n1")


def test_a_set_up_line_that_fails_fails_the_task(tmp_path: Path) -> None:
    environment = Environment(python="printf", setup=("true", "module load nothing", "true"))
    result = run_task(replace(array_job((("ran",),), tmp_path), environment=environment), 0)
    assert result.stdout == b""
    assert read_tasks(tmp_path, "train")[0].state == "failed"


def test_set_up_and_container_come_before_the_command(tmp_path: Path) -> None:
    environment = Environment(
        python="bash", setup=("export GREETING='hello  you'",), container=("env", "A=b c")
    )
    job = replace(array_job((("-c", 'echo "$GREETING $A"'),), tmp_path), environment=environment)
    assert run_task(job, 0).stdout == b"hello  you b c\n"


def test_ten_thousand_tasks_go_in_arrays_that_slurm_takes() -> None:
    scripts = list(dry_run(request(ingest(10_000)), 1001))
    arrays, finish = scripts[:-1], scripts[-1]
    assert [line for text in arrays for line in text.splitlines() if "--array=" in line] == [
        *["#SBATCH --array=0-1000"] * 9,
        "#SBATCH --array=0-990",
    ]
    assert "task=$((SLURM_ARRAY_TASK_ID + 9009))" in arrays[-1]
    assert all("--num-tasks 10000 --task-index" in text for text in arrays)
    upstream = ":".join(f"$ingest_{start}" for start in range(0, 10_000, 1001))
    assert f"--dependency=afterok:{upstream}" in finish.replace("'", "")


def test_a_limit_holds_over_several_arrays() -> None:
    scripts = list(dry_run(request(ingest(2500), limit=16), 1001))
    assert "--dependency" not in scripts[0].splitlines()[0]
    assert "--dependency=afterany:$ingest_0" in scripts[1].replace("'", "")
    assert all("%16\n" in text for text in scripts[:-1])


@given(num_tasks=st.integers(1, 5000), size=st.integers(1, 1500))
def test_every_task_is_in_one_part(num_tasks: int, size: int) -> None:
    parts = split_tasks(num_tasks, size)
    assert [task for part in parts for task in part] == list(range(num_tasks))
    assert all(0 < len(part) <= size for part in parts)


@given(st.sets(st.integers(0, 60), min_size=1))
def test_array_names_exactly_its_indices(indices: set[int]) -> None:
    spec = render_array(sorted(indices), 3)
    runs = [run.split("-") for run in spec.removesuffix("%3").split(",")]
    assert {i for run in runs for i in range(int(run[0]), int(run[-1]) + 1)} == indices


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpu": "1"}, "unknown sbatch option 'gpu'; known are .* gpus"),
        ({"array": "0-3"}, "'array' is set by slurm submit itself"),
        ({"comment": "a\n#SBATCH --uid=0"}, "cannot hold a newline"),
    ],
)
def test_bad_options_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Resources(options=options)


@pytest.mark.parametrize("name", ["a%j", "a\\b", "a\nb"])
def test_folders_that_slurm_would_read_as_patterns_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="choose a"):
        array_job((("true",),), Path("/lab") / name)


@pytest.mark.parametrize(
    ("options", "gpus"),
    [
        ({}, None),
        ({"gpus-per-node": "0"}, 0),
        ({"gres": "none"}, 0),
        ({"gres": "gpu:a40:2,gpu:h100:2,nvme:1", "partition": "p"}, 4),
        ({"gres": "gpu:a40:2"}, 2),
        ({"gres": "shard:3,gpu:4"}, 4),
        ({"gres": "gpu"}, 1),
        ({"gpus-per-node": "h100:8"}, 8),
    ],
)
def test_gpus_are_read_from_the_options(options: dict[str, str], gpus: int | None) -> None:
    assert Resources(options=options).gpus_per_node == gpus


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpus": "8"}, "'gpus' leaves open how many GPUs a node has.* gpus-per-node=N"),
        ({"tres-per-task": "cpu=4,gres/gpu:a40=2"}, "'tres-per-task' leaves open how many GPUs"),
        ({"partition": "gpu"}, "nodes chosen by partition=gpu, and nothing says how many GPUs"),
        ({"exclusive": ""}, "nodes chosen by exclusive, and nothing says how many GPUs"),
        ({"gres": "nvme:1", "qos": "q"}, "nodes chosen by qos=q, and nothing says how many GPUs"),
        ({"nodes": "two"}, "nodes must be a number from 1, got 'two'"),
    ],
)
def test_training_needs_to_know_its_ranks(options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(dry_run(request(sweep(), train=options), 1001))


def test_a_cross_validation_packs_trains_and_predicts_each_fold_and_pools_them() -> None:
    steps = {step.name: step for step in pipeline(num_folds=3)}
    packed = [" ".join(command) for command in steps["pack"].commands]
    assert len(steps["train"].commands) == len(steps["predict"].commands) == 6
    assert packed[0].endswith("--view patch --folds 3 --out runs/v1/shards/patch")
    trained = [" ".join(command) for command in steps["train"].commands]
    assert trained[5].endswith(
        "--data runs/v1/shards/cube --fold 2 --out runs/v1/runs/unet3d-fold2"
    )
    reports = [" ".join(command) for command in steps["eval"].commands]
    folds = [f"runs/v1/runs/unet3d-fold{fold}" for fold in range(3)]
    assert reports[1] == f"-m eval {' '.join(folds)} --pool --out runs/v1/report/unet3d"
    assert len(reports) == 2
    with pytest.raises(ValueError, match="3 folds or more, got --folds 2"):
        pipeline(num_folds=2)
