"""The published JSON schema of jobs: current, and fit for the jobs that come with the project."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from ingest.__main__ import main
from tests.conftest import REPOSITORY

PUBLISHED = REPOSITORY / "docs" / "reference" / "job.schema.json"
CONFIGS = sorted((REPOSITORY / "ingest" / "configs").glob("*.yaml"))


def test_the_published_schema_is_what_the_command_prints(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["schema"])
    assert PUBLISHED.read_text() == capsys.readouterr().out, (
        "run: python -m ingest schema > docs/reference/job.schema.json"
    )


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_jobs_that_come_along_fit_it_and_name_it(path: Path) -> None:
    text = path.read_text()
    jsonschema.validate(yaml.safe_load(text), json.loads(PUBLISHED.read_text()))
    name = text.splitlines()[0].removeprefix("# yaml-language-server: $schema=")
    assert (path.parent / name).resolve() == PUBLISHED


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"volumes": {}}, "'volumes' was unexpected"),
        ({"samples_per_block": "many"}, "'many' is not of type 'integer'"),
        ({"volume": {"path": "em", "format": "tif"}}, "'tif' is not one of"),
    ],
)
def test_a_wrong_key_or_value_is_marked(change: dict[str, object], message: str) -> None:
    job = yaml.safe_load(CONFIGS[0].read_text()) | change
    with pytest.raises(jsonschema.ValidationError, match=message):
        jsonschema.validate(job, json.loads(PUBLISHED.read_text()))
