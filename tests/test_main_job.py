"""The main job as a user runs it: the demo's own script on a tiny phantom."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from eval.__main__ import main as evaluate
from eval.inputs.predictions import read_predictions
from ingest.__main__ import main as ingest
from shards.__main__ import main as pack
from slurm.__main__ import main as slurm
from tests.conftest import REPOSITORY, run_here
from tests.documented import blocks, words_of
from trainer.__main__ import main as train

TINY = {
    "DEMO_PHANTOM": "--size 640 640 96 --neurons 16 --synapses 80",
    "DEMO_2D": "--epochs 1 --batch-size 8 --crop 64 64 --threads 1",
    "DEMO_3D": "--epochs 1 --batch-size 8 --crop 8 32 32 --threads 1",
}

SAME_LAYOUT = " --memory-format channels_last"
TINY_OPTIONS = {  # for a command of the README that begins so
    "synshards ingest phantom": TINY["DEMO_PHANTOM"],
    "synshards train ": TINY["DEMO_3D"] + SAME_LAYOUT,
    "synshards trainer augment": "--crop 8 32 32",
    "synshards trainer batch-size": "--crop 8 32 32",
}
# Not on this machine; or, for folds, not on a phantom so small that all images overlap.
ELSEWHERE = ("s3://bucket", "--multi_gpu", "account=LAB", "slurm status", "--folds 3")


def demo(out: Path) -> tuple[str, str]:
    """Run the script; return what it printed, and the commands that it told."""
    bin_folder = str(Path(sys.executable).parent)
    environment = {**os.environ, **TINY, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "docs/demo.sh", str(out)],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """Return the folder of a finished demo, what it printed, and the commands that it told."""
    out = tmp_path_factory.mktemp("demo")
    return out, *demo(out)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo_ends_at_a_report_and_can_be_run_again(finished: tuple[Path, str, str]) -> None:
    tmp_path, first, told = finished
    report = tmp_path / "report.html"
    assert str(report) in first
    assert "balanced accuracy" in first
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    runs = {run["name"]: run for run in metrics["runs"]}
    assert set(runs) == {"2d", "3d"}
    assert runs["2d"]["n_synapses"] == runs["3d"]["n_synapses"] > 0
    shards = {path: path.read_bytes() for path in tmp_path.glob("shards/*/*")}
    checkpoint = (tmp_path / "3d/checkpoints/best/model.safetensors").read_bytes()

    lines = [line for line in told.splitlines() if line.startswith("== ")]
    steps = [line.partition(" s  ")[2].split() for line in lines]
    again = [run_here(*words[words.index("-m") + 1 :]) for words in steps]

    assert len(again) == 11
    assert {path: path.read_bytes() for path in tmp_path.glob("shards/*/*")} == shards
    assert (tmp_path / "3d/checkpoints/best/model.safetensors").read_bytes() == checkpoint


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore:No complete tensor found:UserWarning")  # of torch.export
def test_the_commands_of_the_readme_run_on_the_demo(
    finished: tuple[Path, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "demo").symlink_to(finished[0])
    monkeypatch.chdir(tmp_path)
    mains = {"eval": evaluate, "ingest": ingest, "shards": pack, "slurm": slurm, "trainer": train}
    shown = blocks(REPOSITORY / "README.md")
    here = [command for command in shown if not any(word in command for word in ELSEWHERE)]
    assert len(here) >= len(shown) - len(ELSEWHERE)
    for command in here:
        tiny = [options for start, options in TINY_OPTIONS.items() if command.startswith(start)]
        package, *words = words_of(" ".join([command, *tiny]))
        mains[package](words)

    made = {path.relative_to(tmp_path).parts[:2] for path in tmp_path.glob("runs/*")}
    names = ("tiff", "cubes.png", "sheet.png", "models", "layer")
    assert made >= {("runs", name) for name in names}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_synapses_without_a_label_are_predicted_and_shown(
    finished: tuple[Path, str, str], tmp_path: Path
) -> None:
    """Four neurons without a cell type are orphan axons."""
    demo_folder, *_ = finished
    phantom = demo_folder / "phantom"
    cells = pd.read_parquet(phantom / "cell_types.parquet")
    cells[4:].to_parquet(tmp_path / "known.parquet")
    job = (
        (phantom / "ingest.yaml").read_text().replace("  tables:", "  unlabelled: true\n  tables:")
    )
    job = job.replace("path: cell_types", f"path: {tmp_path / 'known'}")
    for name in ("em", "synapses"):
        job = job.replace(f"path: {name}", f"path: {phantom / name}")
    (tmp_path / "job.yaml").write_text(job)
    data, shards = str(tmp_path / "data"), str(tmp_path / "shards")
    ingest(["plan", str(tmp_path / "job.yaml"), "--out", data])
    ingest(["run", data])
    ingest(["finish", data])
    pack(["pack", data, "--view", "cube", "--out", shards, "--unlabelled", "keep"])
    train(["predict", str(demo_folder / "3d"), "--data", shards, "--out", str(tmp_path)])
    predictions = tmp_path / "predictions" / "test.parquet"
    evaluate(["export", str(predictions), "--out", str(tmp_path / "layer")])

    frame, _ = read_predictions(predictions)
    assert (frame["label"] == -1).all()
    synapses = pd.read_parquet(phantom / "synapses.parquet")
    orphans = synapses[synapses["pre_pt_root_id"].isin(cells["pt_root_id"][:4])]
    rejects = pd.read_parquet(tmp_path / "data" / "rejects.parquet")["synapse_id"]
    assert set(frame["synapse_id"]) == set(orphans["id"]) - set(rejects)
    assert len(frame) > 5
    assert (tmp_path / "layer" / "info").is_file()
