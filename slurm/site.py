"""What is particular to a cluster: one TOML a site, with resources and set-up lines only.

required = ["account"]            # options that only the user can know
python = "python"                 # in the job; without it, the interpreter that submits
setup = ["module load apptainer"]
container = ["apptainer", "exec", "--nv", "synshards.sif"]
max_array_size = 1001             # where Slurm cannot be asked, as in a dry run elsewhere
[resources]                       # sbatch's long options, for every step
time = "4:00:00"
[resources.train]                 # and for one
gres = "gpu:1"
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slurm.job import STEPS, Environment, Resources

SITES = Path(__file__).with_name("sites")
# Two minutes' warning is what a checkpoint of a large model on a slow disk takes.
DEFAULTS: Mapping[str, Mapping[str, str]] = {"train": {"signal": "B:USR1@120"}}
_TYPES: Mapping[str, type] = {
    "required": list,
    "python": str,
    "setup": list,
    "container": list,
    "max_array_size": int,
    "resources": dict,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """A site's facts; `resources` go by step, "" holds those of every step."""

    environment: Environment
    required: tuple[str, ...]
    max_array_size: int
    resources: Mapping[str, Mapping[str, str]]

    def for_step(self, step: str, options: Mapping[str, Mapping[str, str]]) -> Resources:
        """Return the step's resources: defaults, then the site's, then the user's `options`."""
        layers = (
            DEFAULTS.get(step, {}),
            *(a.get(k, {}) for a in (self.resources, options) for k in ("", step)),
        )
        merged = {name: value for layer in layers for name, value in layer.items()}
        if missing := [name for name in self.required if not merged.get(name)]:
            raise ValueError(
                f"this site needs {', '.join(missing)} from you: add "
                + " ".join(f"--option {name}=..." for name in missing)
            )
        return Resources(options=merged)


def load_site(name_or_path: str, *, python: str) -> Site:
    """Read a site by its name in slurm/sites or by the path of a TOML file.

    `python` is the interpreter where the site names none.
    """
    path = SITES / f"{name_or_path}.toml"
    if not path.is_file():
        path = Path(name_or_path)
    if not path.is_file():
        known = ", ".join(sorted(site.stem for site in SITES.glob("*.toml")))
        raise ValueError(
            f"no site {name_or_path!r}: use one of {known}, or the path of a TOML file"
        )
    try:
        return parse_site(tomllib.loads(path.read_text()), python=python)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def parse_site(facts: Mapping[str, Any], *, python: str) -> Site:
    """Check the content of a site's TOML and return it as a `Site`."""
    for key, value in facts.items():
        _expect(key in _TYPES, f"unknown key {key!r}; known are {', '.join(_TYPES)}")
        kind = _TYPES[key]
        _expect(isinstance(value, kind), f"{key} must be a {kind.__name__}, found {value!r}")
    return Site(
        environment=Environment(
            python=facts.get("python", python),
            setup=_strings("setup", facts),
            container=_strings("container", facts),
        ),
        required=_strings("required", facts),
        max_array_size=facts.get("max_array_size", 1001),
        resources=_resources(facts.get("resources", {})),
    )


def parse_options(words: Sequence[str]) -> dict[str, dict[str, str]]:
    """Read `NAME=VALUE` and `STEP.NAME=VALUE` as options by step; "" holds those of every step."""
    options: dict[str, dict[str, str]] = {}
    for word in words:
        target, equals, value = word.partition("=")
        step, dot, name = target.rpartition(".")
        _expect(
            not dot or step in STEPS,
            f"--option {word}: unknown step {step!r}; known are {', '.join(STEPS)}",
        )
        _expect(bool(equals), f"--option {word}: expected NAME=VALUE, or NAME= for a flag")
        options.setdefault(step, {})[name] = value
    for named in options.values():
        Resources(options=named)  # refuses unknown names even for steps this chain has not
    return options


def _strings(key: str, facts: Mapping[str, Any]) -> tuple[str, ...]:
    for item in facts.get(key, ()):
        _expect(isinstance(item, str), f"{key} must hold strings, found {item!r}")
    return tuple(facts.get(key, ()))


def _resources(table: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    steps = {name: value for name, value in table.items() if isinstance(value, dict)}
    for name in steps:
        _expect(name in STEPS, f"unknown step [resources.{name}]; known are {', '.join(STEPS)}")
    everywhere = {name: value for name, value in table.items() if name not in steps}
    return {name: _layer(options) for name, options in {"": everywhere, **steps}.items()}


def _layer(options: Mapping[str, Any]) -> dict[str, str]:
    for name, value in options.items():
        is_plain = isinstance(value, str | int) and not isinstance(value, bool)
        _expect(is_plain, f"option {name} must be a string or a number, found {value!r}")
    return dict(Resources(options={name: str(value) for name, value in options.items()}).options)


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
