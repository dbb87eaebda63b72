"""Real pixels and real labels through every command: synapse or background in fly ssTEM."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import REPOSITORY

CONFIG = REPOSITORY / "ingest" / "configs" / "vnc_points.yaml"


def run(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.timeout(600)
def test_a_model_trained_on_real_em_tells_synapses_from_background(
    shared_data: Path, tmp_path: Path
) -> None:
    job = yaml.safe_load(CONFIG.read_text())
    job["volume"]["path"] = str(shared_data / "vnc_stack1_raw.tif")
    job["synapses"]["path"] = str(shared_data / "vnc_stack1_points.csv")
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))

    run(tmp_path, "ingest", "plan", "job.yaml", "--out", "dataset")
    run(tmp_path, "ingest", "run", "dataset")
    run(tmp_path, "ingest", "finish", "dataset")
    run(tmp_path, "shards", "pack", "dataset", "--view", "patch", "--out", "patch")
    run(tmp_path, "shards", "verify", "patch")
    words = "resnet18_2d_small --data patch --out run --crop 96 96 --epochs 12"
    run(tmp_path, "trainer", *words.split())
    run(tmp_path, "trainer", "predict", "run", "--split", "val", "test", "--tta")
    said = run(tmp_path, "eval", "run")

    (found,) = json.loads((tmp_path / "run/metrics.json").read_text())["runs"]
    assert found["class_names"] == ["background", "synapse"]
    assert found["n_synapses"] == 20
    assert found["metrics"]["auroc"]["value"] > 0.8
    assert 0.4 < found["baselines"]["hog_forest"]["metrics"]["auroc"]["value"] <= 1
    assert "HOG + random forest" in said
    assert (tmp_path / "run/report.html").stat().st_size > 100_000
