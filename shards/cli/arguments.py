"""Command lines as trees of functions: a command is a function, its parameters are its options."""

import functools
import inspect
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from itertools import pairwise
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import tyro
from tyro.conf import FlagCreatePairsOff, Suppress

from shards.cli.command import HELP, UsageError, show_usage, split_words

Command = Callable[..., None]

EMPTY = re.compile(r"(--[\w.-]+=)?")  # an argument without a value
Check = Annotated[
    bool, FlagCreatePairsOff, tyro.conf.arg(help="read the arguments and do nothing more")
]
Debug = Annotated[bool, FlagCreatePairsOff, tyro.conf.arg(help="show the traceback of an error")]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Commands and groups of further ones by the word that calls them.

    `kind` is what help calls that word, `summaries` say more of a command than its docstring does.
    `otherwise` takes arguments whose first word names no command.
    """

    about: str
    commands: Mapping[str, "Command | Group"]
    kind: str = "COMMAND"
    summaries: Mapping[str, str] = field(default_factory=dict)
    otherwise: Command | None = None


def run_named(group: Group, args: Sequence[str], *, prog: str) -> None:
    """Call the command that the first words name with the rest as its options.

    Without arguments the list of commands goes to standard error and the exit code is 2. An option
    that comes more than once is joined where it takes many values (`tuple[X, ...]`), and bad usage
    otherwise.
    """
    if not args or args[0] in HELP:
        show_usage(_listed(group, prog=prog), args)
        return
    command = group.commands.get(args[0])
    if isinstance(command, Group):
        run_named(command, args[1:], prog=f"{prog} {args[0]}")
    elif command is not None:
        _call(command, args[1:], prog=f"{prog} {args[0]}")
    elif group.otherwise is not None:
        _call(group.otherwise, args, prog=prog)
    elif args[0].startswith("-"):
        raise UsageError(f"say which {group.kind.lower()}: {prog} {group.kind} {args[0]} …")
    else:
        known = ", ".join(group.commands)
        raise UsageError(f"no {group.kind.lower()} {args[0]!r} of {prog}; it has {known}")


def print_completion(group: Group, shell: str, *, prog: str) -> None:
    """Print the script by which a shell (bash, zsh, fish) completes the commands and options."""
    tyro.cli(_union(group), args=["--tyro-print-completion", shell], prog=prog)


def about(command: Callable[..., object]) -> str:
    """Return what a function's docstring says, without its arguments."""
    return inspect.cleandoc(_function(command).__doc__ or "").partition("\n\nArgs:")[0]


def _call(command: Command, args: Sequence[str], *, prog: str) -> None:
    bound = _bound(command)
    _refuse_empty(args)
    words = _joined(args, {name.replace("_", "-") for name in _many(bound)})
    try:
        call = tyro.cli(bound, args=words, prog=prog)
    except ValueError as error:
        raise UsageError(f"{error}; see {prog} --help") from None
    call()


def _bound(command: Command) -> Callable[..., Callable[[], None]]:
    """Return a function with the options of `command` and of all commands.

    It returns the call, which does nothing with --check. Errors with and without --debug are
    `run_command`'s.
    """

    def bind(*args: object, check: bool, debug: bool, **options: object) -> Callable[[], None]:
        del debug
        return functools.partial(command, *args, **options) if not check else lambda: None

    hints = get_type_hints(_function(command), include_extras=True)
    parameters = [
        parameter.replace(annotation=hints[parameter.name])
        for parameter in inspect.signature(command).parameters.values()
    ]
    for name, kind in (("check", Check), ("debug", Debug)):
        parameters.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        )
    bind.__doc__ = _function(command).__doc__
    _set_parameters(bind, parameters)
    return bind


def _union(group: Group) -> Callable[..., object]:
    """Return a function of one parameter, which tyro reads as the group's commands."""

    def choose(command: object) -> None:
        del command

    members: Any = tuple(
        Annotated[Any, tyro.conf.subcommand(name=name, constructor=_constructor(entry))]
        for name, entry in group.commands.items()
    )
    union: Any = functools.reduce(operator.or_, members, Annotated[None, Suppress])
    kind = Annotated[union, tyro.conf.arg(name="")]
    parameter = inspect.Parameter(
        "command", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=kind
    )
    _set_parameters(choose, [parameter])
    return choose


def _constructor(entry: Command | Group) -> Callable[..., object]:
    return _union(entry) if isinstance(entry, Group) else _bound(entry)


def _set_parameters(function: Any, parameters: Sequence[inspect.Parameter]) -> None:
    function.__signature__ = inspect.Signature(parameters)
    function.__annotations__ = {each.name: each.annotation for each in parameters}


def _function(command: Callable[..., object]) -> Callable[..., object]:
    return command.func if isinstance(command, functools.partial) else command


def _refuse_empty(args: Sequence[str]) -> None:
    """An empty path would be the current folder."""
    for before, word in pairwise(["", *split_words(args)[0]]):
        if EMPTY.fullmatch(word):
            where = word or (f"the argument after {before}" if before else "the first argument")
            raise UsageError(f"{where} is empty; is a variable of the shell not set?")


def _many(kind: Any) -> Iterator[str]:
    """Yield the names of the options that take any number of values."""
    for name, hint in get_type_hints(kind).items():
        if get_origin(hint) is tuple and get_args(hint)[-1] is Ellipsis:
            yield name
        elif is_dataclass(hint):
            yield from _many(hint)


def _joined(args: Sequence[str], many: set[str]) -> list[str]:
    """Return the arguments with each option once, where its first occurrence stood."""
    own, rest = split_words(args)
    parts: dict[str, list[str]] = {"": []}
    name = ""
    for word in own:
        if not word.startswith("--"):
            parts[name].append(word)
            continue
        flag, equals, value = word.partition("=")
        name = flag[2:].replace("_", "-").removeprefix("no-").replace(".no-", ".")
        if name not in parts:
            parts[name] = [word]
        elif name.rpartition(".")[2] not in many:
            raise UsageError(f"--{name} is given more than once; give it once")
        elif equals:
            parts[name].append(value)
    return [word for part in parts.values() for word in part] + rest


def _listed(group: Group, *, prog: str) -> str:
    width = max(map(len, group.commands))
    lines = [f"usage: {prog} {group.kind} [--option value …]", "", group.about.strip(), ""]
    for name, entry in group.commands.items():
        text = entry.about if isinstance(entry, Group) else about(entry)
        lines.append(f"  {name:{width}}  {group.summaries.get(name) or text.splitlines()[0]}")
    return "\n".join(lines)
