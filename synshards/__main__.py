"""The command `synshards`: hands its arguments to the package that its first word names.

Nothing is imported before it is called for, and never from the folder the user works in.
"""

import os
import signal
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

HOME = Path(__file__).absolute().parents[1]
ABOUT = """\
usage: synshards COMMAND …

From electron microscopy and a table of synapses to a classifier and its report.

  ingest      read a volume around each synapse into a sample store
  shards      pack, inspect, verify, copy, and serve WebDataset shards
  train       train a recipe on shards
  predict     predict with trained runs
  trainer     all of the trainer's commands: recipes, export, augment, batch-size, …
  eval        score and report predictions
  slurm       submit any of it to a Slurm cluster

`synshards COMMAND --help` says more; `synshards --version` prints the version. Each COMMAND but
train and predict is also `python -m COMMAND`.
Example: synshards ingest phantom runs/phantom
"""
# COMMAND → the package, and the words before those that the user gives
PACKAGES: dict[str, tuple[str, ...]] = {
    "ingest": ("ingest",),
    "shards": ("shards",),
    "train": ("trainer",),
    "predict": ("trainer", "predict"),
    "trainer": ("trainer",),
    "eval": ("eval",),
    "slurm": ("slurm",),
}


def main(argv: list[str]) -> int:
    """Run the command that the first word names and return the process's exit code."""
    hidden = [name for name in {"shards", *_packages(argv)} if not _is_ours(name)]
    if hidden:
        sys.stderr.write(_hidden_line(hidden[0]))
        return 1
    from shards.cli.command import run_command

    if argv[:1] and argv[0] in PACKAGES:
        package, *words = PACKAGES[argv[0]]
        return run_command(import_module(f"{package}.__main__").main, [*words, *argv[1:]])
    return run_command(_own, argv)


def console() -> int:
    """Run as the installed command, whatever Python files lie in the working folder.

    Processes started from here, such as workers and ranks, keep to that.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        # Ctrl-C while modules are imported ends the process without a traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if not sys.flags.safe_path:
        del sys.path[0]  # the folder of this script
    os.environ["PYTHONSAFEPATH"] = "1"
    return main(sys.argv[1:])


def _own(args: list[str]) -> None:
    from shards.cli.command import HELP, UsageError, show_usage
    from synshards import __version__

    if args[:1] == ["--version"]:
        sys.stdout.write(f"synshards {__version__}\n")
    elif not args or args[0] in HELP:
        show_usage(ABOUT, args)
    else:
        raise UsageError(f"no command {args[0]!r} of synshards; it has {', '.join(PACKAGES)}")


def _packages(argv: list[str]) -> tuple[str, ...]:
    return PACKAGES.get(argv[0], ())[:1] if argv else ()


def _is_ours(package: str) -> bool:
    return _place(package) == HOME / package


def _place(package: str) -> Path | None:
    """Return the folder that `import package` would take, or the file."""
    spec = find_spec(package)
    if spec is None:
        return None
    folders = list(spec.submodule_search_locations or ())
    path = folders[0] if folders else spec.origin
    return None if path is None else Path(path).absolute()


def _hidden_line(package: str) -> str:
    place = _place(package)
    found = "nowhere" if place is None else f"in {place}"
    return (
        f"error: Python finds the package {package} {found}, and synshards needs its own in "
        f"{HOME / package}: take the other out of PYTHONPATH, or uninstall what brought it\n"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
