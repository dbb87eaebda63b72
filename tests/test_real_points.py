"""Real pixels and real labels through every command: synapse or background in fly ssTEM."""

import json
from pathlib import Path

import pytest
import yaml

from tests.conftest import REPOSITORY, run_here

CONFIG = REPOSITORY / "ingest" / "configs" / "vnc_points.yaml"


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.timeout(600)
def test_a_model_trained_on_real_em_tells_synapses_from_background(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = yaml.safe_load(CONFIG.read_text())
    job["volume"]["path"] = str(shared_data / "vnc_stack1_raw.tif")
    job["synapses"]["path"] = str(shared_data / "vnc_stack1_points.csv")
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))

    run_here("ingest", "plan", "job.yaml", "--out", "dataset")
    run_here("ingest", "run", "dataset")
    run_here("ingest", "finish", "dataset")
    run_here("shards", "pack", "dataset", "--view", "patch", "--out", "patch")
    run_here("shards", "verify", "patch")
    words = "resnet18_2d_small --data patch --out run --crop 96 96 --epochs 12 --threads 1"
    run_here("trainer", *words.split())
    run_here("trainer", "predict", "run", "--split", "val", "test", "--tta", "--threads", "1")
    said = run_here("eval", "run")

    (found,) = json.loads((tmp_path / "run/metrics.json").read_text())["runs"]
    assert found["class_names"] == ["background", "synapse"]
    assert found["n_synapses"] == 20
    assert found["metrics"]["auroc"]["value"] > 0.8
    assert 0.4 < found["baselines"]["hog_forest"]["metrics"]["auroc"]["value"] <= 1
    assert "HOG + random forest" in said
    assert (tmp_path / "run/report.html").stat().st_size > 100_000
