"""The published JSON schema and reference of jobs: current, whole, and true of the ready jobs."""

import json
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import jsonschema
import pytest
import yaml
from pydantic import TypeAdapter

from ingest.__main__ import main
from ingest.job.field_docs import field_docs
from ingest.job.job_file import JobFile, with_lists
from ingest.job.job_schema import records_of
from tests.conftest import REPOSITORY

PUBLISHED = REPOSITORY / "docs" / "reference" / "job.schema.json"
CONFIGS = sorted((REPOSITORY / "ingest" / "configs").glob("*.yaml"))


@pytest.mark.parametrize(
    ("options", "name"), [([], "job.schema.json"), (["--page"], "job.md")], ids=["schema", "page"]
)
def test_the_published_schema_is_what_the_command_prints(
    capsys: pytest.CaptureFixture[str], options: list[str], name: str
) -> None:
    main(["schema", *options])
    assert PUBLISHED.with_name(name).read_text() == capsys.readouterr().out, (
        f"run: python -m ingest schema {' '.join(options)} > docs/reference/{name}"
    )


@pytest.mark.parametrize(
    "record", dict.fromkeys(records_of(JobFile)), ids=lambda record: record.__name__
)
def test_every_key_has_a_meaning_and_an_example_that_it_may_have(record: type) -> None:
    docs, hints = field_docs(record), get_type_hints(record)
    assert docs.keys() == {item.name for item in fields(record)}
    for name, about in docs.items():
        assert about.meaning
        example = with_lists(hints[name], yaml.safe_load(about.example))
        if "…" not in about.example:
            data = json.dumps(example)
            TypeAdapter(hints[name]).validate_json(data, strict=True)


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
