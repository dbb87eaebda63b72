"""Facts of a cluster: one TOML file per site, with resources and set-up lines only.

required = ["account"]            # options that only the user can know
python = "python"                 # in the job; without it, the interpreter that submits
setup = ["module load apptainer"]
container = ["apptainer", "exec", "--nv", "synshards.sif"]
max_array_size = 1001             # where Slurm cannot be asked, as in a dry run elsewhere
gpus_per_node = 4                 # where GPUs come with a node without being asked for; 0 for none
[resources]                       # sbatch's long options, for every step
time = "4:00:00"
exclusive = true                  # a flag; false takes one away
[resources.train]                 # and for one
gres = "gpu:1"
mem = ""                          # takes away what stands above

Options that exclude each other, such as mem and mem-per-cpu, replace each other.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shards.cli.command import UsageError
from shards.contract.documents import document, parse_plain, read_bytes
from slurm.job import STEPS, Environment, Resources
from slurm.sites.options import FLAGS, OFF, Options, check_layer, merged

SITES = Path(__file__).parent
# Two minutes' warning is what a checkpoint of a large model on a slow disk takes.
DEFAULTS: Mapping[str, Options] = {"train": {"signal": "B:USR1@120"}}
CURE = "see the sites in slurm/sites, or give none: every fact has a default"

Value = bool | int | str  # true and false are for flags


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class SiteFile:
    """Content of a site's TOML file."""

    required: tuple[str, ...] = ()
    python: str | None = None
    setup: tuple[str, ...] = ()
    container: tuple[str, ...] = ()
    max_array_size: int = 1001
    gpus_per_node: int | None = None
    resources: Mapping[str, Value | Mapping[str, Value]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.max_array_size < 1:
            raise ValueError(f"max_array_size must be at least 1, got {self.max_array_size}")
        if self.gpus_per_node is not None and self.gpus_per_node < 0:
            raise ValueError(f"gpus_per_node must not be negative, got {self.gpus_per_node}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """A site's facts; `resources` go by step, "" holds those of every step."""

    environment: Environment
    required: tuple[str, ...]
    max_array_size: int
    gpus_per_node: int | None
    resources: Mapping[str, Options]

    def for_step(self, step: str, options: Mapping[str, Options]) -> Resources:
        """Return the step's resources: defaults, then the site's, then the user's `options`."""
        layers = (
            DEFAULTS.get(step, {}),
            *(a.get(k, {}) for a in (self.resources, options) for k in ("", step)),
        )
        chosen = merged(layers)
        if missing := [name for name in self.required if not chosen.get(name)]:
            raise ValueError(
                f"this site needs {', '.join(missing)} from you: add "
                + " ".join(f"--option {name}=..." for name in missing)
            )
        return Resources(options=chosen, given_gpus=self.gpus_per_node)


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
    data = read_bytes(path, what="site", cure=CURE)
    try:
        facts = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not readable as TOML ({error}); {CURE}") from None
    return parse_site(facts, python=python, where=str(path))


def parse_site(facts: Mapping[str, Any], *, python: str, where: str = "site") -> Site:
    """Check the content of a site's TOML and return it as a `Site`."""
    file = parse_plain(SiteFile, facts, where=where, cure=CURE)
    try:
        resources = _resources(file.resources)
    except ValueError as error:
        raise ValueError(f"{where}: {error}; {CURE}") from None
    return Site(
        environment=Environment(
            python=file.python or python, setup=file.setup, container=file.container
        ),
        required=file.required,
        max_array_size=file.max_array_size,
        gpus_per_node=file.gpus_per_node,
        resources=resources,
    )


def parse_options(words: Sequence[str]) -> dict[str, dict[str, str]]:
    """Read the values of --option as options by step; "" holds those of every step.

    `NAME=VALUE` and `STEP.NAME=VALUE` set an option, `NAME` and `NAME=` a flag; `NAME=` takes an
    option away, and `NAME=false` a flag.
    """
    options: dict[str, dict[str, str]] = {}
    for word in words:
        target, equals, value = word.partition("=")
        step, dot, name = target.rpartition(".")
        if dot and step not in STEPS:
            raise UsageError(
                f"--option {word}: unknown step {step!r}; known are {', '.join(STEPS)}"
            )
        if not equals and name not in FLAGS:
            raise UsageError(
                f"--option {word}: expected NAME=VALUE, NAME= to take it away, or NAME for a flag, "
                f"of which there are {', '.join(sorted(FLAGS))}"
            )
        if name in options.setdefault(step, {}):
            raise UsageError(f"--option {target} is given more than once; give it once")
        options[step][name] = value
    for named in options.values():
        _checked(named)  # refuses unknown names even for steps this chain has not
    return options


def _resources(table: Mapping[str, Value | Mapping[str, Value]]) -> dict[str, Options]:
    layers: dict[str, dict[str, str]] = {"": {}}
    for name, value in table.items():
        if not isinstance(value, Mapping):
            layers[""][name] = _text(name, value)
        elif name in STEPS:
            layers[name] = {option: _text(option, given) for option, given in value.items()}
        else:
            raise ValueError(f"unknown step [resources.{name}]; known are {', '.join(STEPS)}")
    return {step: _checked(layer) for step, layer in layers.items()}


def _text(name: str, value: Value) -> str:
    if not isinstance(value, bool):
        return str(value)
    if name not in FLAGS:
        raise ValueError(f"option {name} is {value}, but is no flag: expected text or a number")
    return "" if value else OFF


def _checked(options: Options) -> Options:
    check_layer(options)
    return Resources(options=options).options
