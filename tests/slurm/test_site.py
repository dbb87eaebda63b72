"""Sites and options: what is known is taken, everything else is refused by name."""

from pathlib import Path
from typing import Any

import pytest

from slurm.sites.site import SITES, load_site, parse_options, parse_site


@pytest.mark.parametrize("name", sorted(path.stem for path in SITES.glob("*.toml")))
def test_our_sites_load(name: str) -> None:
    site = load_site(name, python="python")
    for step in ("ingest", "train"):
        assert site.for_step(step, {"": {"account": "lab"}}).options["time"]


def test_the_nearest_layer_wins() -> None:
    site = parse_site(
        {"resources": {"time": "1:00", "mem": "1G", "train": {"mem": "2G", "nodes": 2}}},
        python="python",
    )
    options = parse_options(["time=2:00", "train.time=3:00", "exclusive="])
    assert dict(site.for_step("ingest", options).options) == {
        "time": "2:00",
        "mem": "1G",
        "exclusive": "",
    }
    train = site.for_step("train", options)
    assert train.num_nodes == 2
    assert train.options["time"] == "3:00"
    assert train.options["signal"] == "B:USR1@120"


def test_hyak_asks_for_an_account() -> None:
    with pytest.raises(ValueError, match=r"needs account from you: add --option account=\.\.\."):
        load_site("hyak", python="python").for_step("train", {})


def test_a_site_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('python = "py"\nsetup = ["module load x"]\n[resources.pack]\nmem = "9G"\n')
    site = load_site(str(path), python="python")
    assert site.environment.python == "py"
    assert site.environment.setup == ("module load x",)
    assert site.for_step("pack", {}).options["mem"] == "9G"


def test_an_unknown_site_names_the_known() -> None:
    with pytest.raises(ValueError, match="no site 'nope': use one of generic, hyak"):
        load_site("nope", python="python")


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"modules": []}, r"unknown key modules \(known keys: required, python, "),
        ({"setup": "module load x"}, "setup is 'module load x', expected a valid"),
        ({"setup": [1]}, r"setup\[0\] is 1, expected a valid string"),
        ({"python": None}, ""),
        ({"max_array_size": 0}, "max_array_size must be at least 1, got 0"),
        ({"gpus_per_node": -1}, "gpus_per_node must not be negative"),
        ({"resources": []}, "resources is"),
        ({"resources": {"train": []}}, "resources.train"),
        ({"resources": {"walltime": "1:00"}}, "unknown sbatch option 'walltime'"),
        ({"resources": {"training": {"mem": "1G"}}}, r"unknown step \[resources.training\]"),
        ({"resources": {"train": {"mem": True}}}, "mem is True, but is no flag"),
        ({"resources": {"train": {"mem": 1.5}}}, "resources.train"),
        ({"resources": {"mem": "1G", "mem-per-cpu": "1G"}}, "exclude each other; give one"),
    ],
)
def test_bad_facts_are_refused(facts: dict[str, Any], message: str) -> None:
    if facts == {"python": None}:
        assert parse_site(facts, python="py").environment.python == "py"
        return
    with pytest.raises(ValueError, match=message) as raised:
        parse_site(facts, python="python")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "text", ["[", "a = ", "setup = [" * 5000, "\xff", "a = 1\na = 2", "=", "[[setup]]"]
)
def test_a_broken_file_is_one_line_that_names_it(text: str, tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=f"^{path}: ") as raised:
        load_site(str(path), python="python")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("mem", "expected NAME=VALUE, NAME= to take it away, or NAME for a flag"),
        ("training.mem=1G", "unknown step 'training'; known are plan"),
        ("walltime=1:00", "unknown sbatch option 'walltime'"),
    ],
)
def test_bad_options_are_refused(word: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_options([word])
