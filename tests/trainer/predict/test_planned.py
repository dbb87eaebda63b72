"""A planned data set is predicted from its volume as its packed shards are, and stored nowhere."""

import random
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from eval.__main__ import main as evaluate
from eval.inputs.parts import each_part, part_path, read_parts
from eval.inputs.predictions import read_predictions
from ingest.__main__ import main as ingest
from shards.__main__ import main as shards
from shards.stream.shardset import open_shards
from tests.ingest.conftest import build_job, write_formula_volume
from tests.trainer.conftest import main
from trainer.checkpoint.load import load_trained
from trainer.predict import planned

SPLITS = ("train", "val", "test")
CUBE = (
    "unet3d_small", "--crop", "8", "16", "16", "--width", "4", "--epochs", "1", "--batch-size", "8",
    "--memory-format", "contiguous", "--augment.shift-vx", "0", "--threads", "1",
)  # fmt: skip
PATCH = (
    "resnet18_2d", "--weights", "none", "--crop", "24", "24", "--epochs", "1", "--batch-size", "8",
    "--memory-format", "contiguous", "--threads", "1",
)  # fmt: skip


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan over a volume of plain chunks, its shards, and models `cube` and `patch`."""
    root = tmp_path_factory.mktemp("lab")
    volume = Path(write_formula_volume(root / "volume", sharded=False))
    job = build_job(root, volume, "plain", 90)
    ingest(["plan", str(job.write()), "--out", str(root / "plan")])
    shutil.copytree(root / "plan", root / "data")
    ingest(["run", str(root / "data")])
    ingest(["finish", str(root / "data")])
    for view, recipe in (("cube", CUBE), ("patch", PATCH)):
        place = str(root / f"{view}-shards")
        shards(["pack", str(root / "data"), "--view", view, "--out", place])
        main([*recipe, "--data", place, "--out", root / view])
    return root


def predict(lab: Path, out: Path, *words: object, models: tuple[str, ...] = ("cube",)) -> None:
    runs = [lab / model for model in models]
    main(["predict", *runs, "--data", lab / "plan", "--out", out, "--threads", "1", *words])


def packed(lab: Path, out: Path, model: str, *words: object) -> pd.DataFrame:
    main(["predict", lab / model, "--split", *SPLITS, "--out", out, "--threads", "1", *words])
    tables = [read_predictions(out / "predictions" / f"{split}.parquet")[0] for split in SPLITS]
    return pd.concat(tables).sort_values("key", ignore_index=True)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*")}


@pytest.mark.parametrize("words", [("--batch-size", "1"), ("--batch-size", "1", "--tta"), ()])
@pytest.mark.parametrize("model", ["cube", "patch"])
def test_probabilities_are_those_of_the_packed_shards(
    lab: Path, tmp_path: Path, model: str, words: tuple[str, ...]
) -> None:
    predict(lab, tmp_path / "parts", *words, models=(model,))
    frame, info = read_parts(tmp_path / "parts")
    expected = packed(lab, tmp_path / "packed", model, *words)
    frame = frame.sort_values("key", ignore_index=True)
    rounding = {"rtol": 0, "atol": 1e-6} if not words else {"check_exact": True}  # by batches
    pd.testing.assert_frame_equal(frame[expected.columns], expected, **rounding)  # type: ignore[arg-type]
    assert info.dataset == str(lab / "plan")
    assert info.tta == (8 if "--tta" in words else 1)
    assert not (lab / "plan" / "blocks").exists()


def test_models_of_several_views_are_averaged(lab: Path, tmp_path: Path) -> None:
    predict(lab, tmp_path / "both", models=("cube", "patch"))
    both = read_parts(tmp_path / "both")[0].sort_values("key").probability
    single = [packed(lab, tmp_path / model, model).probability for model in ("cube", "patch")]
    np.testing.assert_allclose(both, (single[0] + single[1]) / 2, atol=1e-7)


def test_tasks_and_interruptions_leave_the_same_parts(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict(lab, tmp_path / "once")
    once = files(tmp_path / "once")
    assert len([name for name in once if name.startswith("part-")]) == 6
    for index in (2, 0, 1):
        predict(lab, tmp_path / "tasks", "--task-index", index, "--num-tasks", 3)
    assert files(tmp_path / "tasks") == once

    rng, read, interrupted = random.Random(4), planned.planned_samples, 0

    def failing(layout: object, plan: object, block: int) -> pd.DataFrame:
        if rng.random() < 0.4:
            raise OSError("the server went away")
        return read(layout, plan, block)  # type: ignore[arg-type]

    monkeypatch.setattr(planned, "planned_samples", failing)
    while len(list((tmp_path / "killed").glob("part-*"))) < 6:
        try:
            predict(lab, tmp_path / "killed")
        except ValueError as error:
            interrupted += "cannot be read: the server went away; run the same" in str(error)
    assert interrupted
    assert files(tmp_path / "killed") == once


def test_samples_without_a_usable_image_are_told_apart(lab: Path, tmp_path: Path) -> None:
    shutil.copytree(lab / "volume", tmp_path / "volume")
    job = build_job(tmp_path, tmp_path / "volume", "plain", 90)
    ingest(["plan", str(job.write()), "--out", str(tmp_path / "plan")])
    gone = sorted((tmp_path / "volume" / "8_8_40").glob("*"))[40:48]
    for path in gone:
        path.unlink()
    with pytest.raises(ValueError, match=r"samples were rejected .* the others are predicted"):
        predict(tmp_path, tmp_path / "parts", "--num-tasks", 1, models=(str(lab / "cube"),))
    kept, _ = read_parts(tmp_path / "parts")
    rejects = pd.concat(map(pd.read_parquet, (tmp_path / "parts").glob("rejects-*")))
    assert len(kept) + len(rejects) == 90
    assert not set(kept.synapse_id) & set(rejects.synapse_id)
    assert set(rejects.reason) <= {"missing_data", "missing_sections", "constant"}


def test_embeddings_are_what_the_last_layer_sees(lab: Path, tmp_path: Path) -> None:
    predict(lab, tmp_path / "parts", "--embed", "--split", "test", "--batch-size", 3)
    tables = [pq.read_table(path) for path in sorted((tmp_path / "parts").glob("part-*"))]
    rows = {
        key: vector
        for table in tables
        if "embedding" in table.column_names
        for key, vector in zip(
            table["key"].to_pylist(), table["embedding"].to_pylist(), strict=True
        )
    }
    model = load_trained(lab / "cube" / "checkpoints" / "best").model
    with open_shards(str(lab / "cube-shards")) as data:
        index = data.index("test")
        images = torch.from_numpy(data.read_images("test", np.arange(len(index))))
        keys = index.column("key")
    assert set(rows) == set(keys)
    head = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
    vectors = torch.tensor(np.array([rows[key] for key in keys], dtype=np.float32))
    with torch.inference_mode():
        torch.testing.assert_close(head(vectors), model(images), rtol=2e-2, atol=2e-2)


def test_parts_are_evaluated_and_exported(lab: Path, tmp_path: Path) -> None:
    predict(lab, tmp_path / "parts")
    evaluate([str(tmp_path / "parts"), "--split", "train"])
    assert (tmp_path / "parts" / "report.html").is_file()
    evaluate(["export", str(tmp_path / "parts"), "--out", str(tmp_path / "layer")])
    assert (tmp_path / "layer" / "info").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--tta",), r"holds predictions of something else \(.*tta.* choose another --out"),
        (("--split", "val"), "holds predictions of something else"),
        (("--split", "everything"), "no split 'everything'; a plan has train, val, test"),
        (("--task-index", 3, "--num-tasks", 3), "--task-index must be from 0 to"),
        (("--stress", "blur"), "is a planned data set: say --out FOLDER"),
        (("--embed", "--tta"), "--embed is of one run without --tta"),
    ],
)
def test_what_does_not_fit_is_refused(
    lab: Path, tmp_path_factory: pytest.TempPathFactory, words: tuple[object, ...], message: str
) -> None:
    out = tmp_path_factory.getbasetemp() / "refused"
    predict(lab, out)
    before = files(out)
    with pytest.raises(ValueError, match=message):
        predict(lab, out, *words)
    assert files(out) == before


def test_parts_are_completed_wherever_model_and_plan_lie(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict(lab, tmp_path / "once")
    predict(lab, tmp_path / "parts", "--task-index", 0, "--num-tasks", 2)
    shutil.copytree(lab / "plan", tmp_path / "moved")
    monkeypatch.chdir(lab)
    words = ["predict", "cube", "--data", tmp_path / "moved", "--out", tmp_path / "parts"]
    main([*words, "--threads", "1"])
    assert files(tmp_path / "parts") == files(tmp_path / "once")


def test_incomplete_and_foreign_parts_are_told(lab: Path, tmp_path: Path) -> None:
    predict(lab, tmp_path / "parts")
    predict(lab, tmp_path / "other", models=("patch",))
    path = part_path(tmp_path / "parts", 2)
    shutil.copy(part_path(tmp_path / "other", 2), path)
    with pytest.raises(ValueError, match=r"not a part of what parts.* beside it says"):
        list(each_part(tmp_path / "parts"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"part-000002.parquet: .*; \w+"):
        read_parts(tmp_path / "parts")
    path.unlink()
    with pytest.raises(ValueError, match=r"1 of 6 parts are missing, first part-000002.parquet"):
        read_parts(tmp_path / "parts")


def test_a_plan_without_a_fitting_view_is_told(lab: Path, tmp_path: Path) -> None:
    job = build_job(tmp_path, lab / "volume", "plain", 40)
    del job.config["samples"]["views"]["patch"]
    ingest(["plan", str(job.write()), "--out", str(tmp_path / "plan")])
    with pytest.raises(ValueError, match=r"needs a patch, but .* plans cube; add such a view"):
        predict(tmp_path, tmp_path / "parts", models=(str(lab / "patch"),))
    assert not (tmp_path / "parts" / "parts.json").exists()
