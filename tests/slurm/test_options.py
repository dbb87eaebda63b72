"""Options of several sources become one sbatch script: nothing is lost, nothing contradicts."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.cli.command import run_command
from slurm.__main__ import main
from slurm.job import Resources
from slurm.sites.options import (
    EXCLUSIVE_PAIRS,
    FLAGS,
    GPU_OPTIONS,
    SBATCH_OPTIONS,
    merged,
    num_gpus,
)
from slurm.sites.site import SITES, load_site, parse_options, parse_site

INGEST = ("submit", "ingest", "d", "--run", "r", "--dry-run")
TRAIN = ("submit", "train", "unet3d_small", "--data", "u", "--run", "r", "--dry-run")


@pytest.fixture(autouse=True)
def _empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def directives(*words: str, capsys: pytest.CaptureFixture[str]) -> set[str]:
    """Return the options in the scripts of a dry run."""
    assert run_command(main, words) == 0
    lines = capsys.readouterr().out.splitlines()
    return {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")}


@pytest.mark.parametrize(
    "words",
    [
        ("--option", "account=LAB", "--option", "partition=gpu"),
        ("--option", "account=LAB", "partition=gpu"),
        ("--option=account=LAB", "--tasks", "3", "--option=partition=gpu"),
        ("--option", "account=LAB", "--option", "ingest.partition=gpu", "finish.partition=gpu"),
    ],
)
def test_options_given_twice_are_all_kept(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert {"account=LAB", "partition=gpu"} <= directives(*INGEST, *words, capsys=capsys)


@pytest.mark.parametrize(
    ("option", "there", "gone"),
    [
        ("mem-per-cpu=4G", {"mem-per-cpu=4G", "cpus-per-task=2"}, "mem="),
        ("mem-per-gpu=4G", {"mem-per-gpu=4G"}, "mem="),
        ("cpus-per-gpu=4", {"cpus-per-gpu=4", "mem=8G"}, "cpus-per-task="),
        ("mem=", {"time=4:00:00"}, "mem="),
        ("time=", {"mem=8G"}, "time="),
        ("exclusive", {"exclusive", "mem=8G"}, "oversubscribe"),
        ("exclusive=", {"exclusive"}, "oversubscribe"),
        ("finish.mem-per-cpu=1G", {"mem=8G", "mem-per-cpu=1G"}, "mem=1"),
    ],
)
def test_the_users_option_replaces_what_it_excludes(
    option: str, there: set[str], gone: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = directives(*INGEST, "--option", option, capsys=capsys)
    assert there <= found
    assert not [name for name in found if name.startswith(gone)]


@pytest.mark.parametrize(
    ("option", "left"),
    [
        ("gpus-per-node=4", "gpus-per-node=4"),
        ("gres=gpu:h100:2", "gres=gpu:h100:2"),
        ("train.gres=gpu:2", "gres=gpu:2"),
        ("gpus-per-node=0", None),
    ],
)
def test_gpus_are_asked_for_once(
    option: str, left: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*TRAIN, "--site", "hyak", "--option", "account=lab", "--option", option)
    found = directives(*words, capsys=capsys)
    assert {o for o in found if o.partition("=")[0] in GPU_OPTIONS} == ({left} if left else set())


def test_of_gres_what_is_no_gpu_stays() -> None:
    assert merged([{"gres": "gpu:a40:2,nvme:1"}, {"gpus-per-node": "4"}]) == {
        "gres": "nvme:1",
        "gpus-per-node": "4",
    }
    assert merged([{"gpus-per-node": "4"}, {"gres": "nvme:1"}]) == {
        "gpus-per-node": "4",
        "gres": "nvme:1",
    }
    assert merged([{"gpus-per-node": "4"}, {"tres-per-task": "gres/gpu=1"}]) == {
        "tres-per-task": "gres/gpu=1"
    }


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(sorted({n for pair in EXCLUSIVE_PAIRS for n in pair} | {*GPU_OPTIONS})),
            st.just("1"),
            max_size=1,
        ),
        max_size=6,
    )
)
def test_what_is_merged_never_contradicts_itself(layers: list[dict[str, str]]) -> None:
    options = merged(layers)
    names = set(options)
    assert not [pair for pair in EXCLUSIVE_PAIRS if pair <= names]
    assert sum(num_gpus(name, value) is not None for name, value in options.items()) <= 1
    if layers and layers[-1]:
        assert layers[-1].items() <= options.items()


def test_every_name_is_an_option_of_sbatch() -> None:
    named = {n for pair in EXCLUSIVE_PAIRS for n in pair} | FLAGS | set(GPU_OPTIONS)
    assert named <= SBATCH_OPTIONS


def test_flags_are_taken_away_and_files_may_say_true() -> None:
    site = parse_site({"resources": {"exclusive": True, "train": {"exclusive": False}}}, python="p")
    assert dict(site.for_step("ingest", {}).options) == {"exclusive": ""}
    assert "exclusive" not in site.for_step("train", {}).options
    assert not site.for_step("ingest", parse_options(["exclusive=false"])).options


@pytest.mark.parametrize("path", sorted(SITES.glob("*.toml")), ids=lambda path: path.stem)
def test_sites_ask_for_nothing_twice(path: Path) -> None:
    site = load_site(str(path), python="python")
    for step in ("ingest", "train", "predict"):
        Resources(options=merged([site.for_step(step, {"": {"account": "a"}}).options]))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--option", "mem=1G", "--option", "mem=2G"), "--option mem is given more than once"),
        (("--option", "mem=1G", "mem-per-cpu=2G"), "mem and mem-per-cpu exclude each other"),
        (("--option", "gres=gpu:1", "gpus-per-node=2"), "exclude each other; give one"),
    ],
)
def test_a_users_contradiction_is_refused(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(main, (*INGEST, *words)) in (1, 2)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("gpus", "ranks", "option"), [(4, "4", "time=1"), (0, "1", "time=1"), (4, "2", "gres=gpu:2")]
)
def test_a_site_states_gpus_that_come_with_a_partition(
    gpus: int, ranks: str, option: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    site = tmp_path / "s.toml"
    site.write_text(f'gpus_per_node = {gpus}\n[resources]\npartition = "gpu"\n')
    assert run_command(main, (*TRAIN, "--site", str(site), "--option", option)) == 0
    script = capsys.readouterr().out
    assert f"--num_processes {ranks}" in script
    assert ("ACCELERATE_USE_CPU=true" in script) == (gpus == 0)
    assert "has GPUs, and nothing asked for them" not in script


def test_where_nothing_is_said_of_gpus_the_task_refuses_to_leave_some_idle(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_command(main, TRAIN) == 0
    assert "has GPUs, and nothing asked for them" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("train", "unet3dd", "--data", "u"), "unknown recipe or command 'unet3dd'"),
        (("pipeline", "c", "--cube", "unet4d"), "unknown recipe or command 'unet4d'"),
        (("train", "unet3d", "--data", "u", "--", "--epoch", "3"), "--epoch"),
        (("train", "unet3d", "--data", "u", "--", "--epochs", "none"), "--epochs"),
        (("train", "unet3d", "--data", "u", "--", "--out", "x"), "--out is given more than once"),
        (("train", "unet3d", "--data", "u", "--seeds", "1", "--", "--seed", "2"), "--seed is"),
        (("ingest", "d", "--", "--schedular", "x"), "--schedular"),
    ],
)
def test_mistakes_in_the_commands_fail_at_submission(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    split = words.index("--") if "--" in words else len(words)
    own, extra = words[:split], words[split:]
    assert run_command(main, ["submit", *own, "--run", "r", "--dry-run", *extra]) == 2
    told = capsys.readouterr()
    assert said in told.err
    assert told.err.count("\n") == 1
    assert told.out == ""
    assert list(tmp_path.iterdir()) == []
