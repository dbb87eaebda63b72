"""The main job as a user runs it: the demo's own script on a tiny phantom."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TINY = {
    "DEMO_PHANTOM": "--size 640 640 96 --neurons 16 --synapses 80",
    "DEMO_2D": "--epochs 1 --batch-size 8 --crop 64 64",
    "DEMO_3D": "--epochs 1 --batch-size 8 --crop 8 32 32",
}


def demo(out: Path) -> str:
    bin_folder = str(Path(sys.executable).parent)
    environment = {**os.environ, **TINY, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "docs/demo.sh", str(out)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo_ends_at_a_report_and_can_be_run_again(tmp_path: Path) -> None:
    first = demo(tmp_path)
    report = tmp_path / "report.html"
    assert str(report) in first
    assert "balanced accuracy" in first
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    runs = {run["name"]: run for run in metrics["runs"]}
    assert set(runs) == {"2d", "3d"}
    assert runs["2d"]["n_synapses"] == runs["3d"]["n_synapses"] > 0
    shards = {path: path.read_bytes() for path in tmp_path.glob("shards/*/*")}
    checkpoint = (tmp_path / "3d/checkpoints/best/model.safetensors").read_bytes()

    demo(tmp_path)

    assert {path: path.read_bytes() for path in tmp_path.glob("shards/*/*")} == shards
    assert (tmp_path / "3d/checkpoints/best/model.safetensors").read_bytes() == checkpoint
