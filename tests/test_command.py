"""What every command line does with arguments, errors and terminals."""

import errno
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import eval.__main__
import ingest.__main__
import shards.__main__
import slurm.__main__
import trainer.__main__
from shards.cli.arguments import Group, run_named
from shards.cli.command import run_command
from trainer.recipes import RECIPES

MAINS: dict[str, Callable[[list[str]], None]] = {
    "eval": eval.__main__.main,
    "ingest": ingest.__main__.main,
    "shards": shards.__main__.main,
    "slurm": slurm.__main__.main,
    "trainer": trainer.__main__.main,
}
COMMANDS = [
    "eval compare",
    "eval export",
    *(f"ingest {name}" for name in ingest.__main__.COMMANDS),
    *(f"shards {name}" for name in shards.__main__.COMMANDS),
    *(f"slurm submit {name}" for name in slurm.__main__.group().commands["submit"].commands),
    "slurm status",
    "slurm cancel",
    *(f"trainer {name}" for name in trainer.__main__.group().commands),
    "trainer unet3d_small",
    "trainer train unet3d_small",
    "trainer augment unet3d_small",
]


def exit_code(words: str) -> int:
    package, *args = shlex.split(words)
    try:
        return run_command(MAINS[package], args)
    except SystemExit as end:
        return int(str(end.code or 0))


def raising(error: BaseException) -> Callable[[list[str]], None]:
    def main(_: list[str]) -> None:
        raise error

    return main


@pytest.mark.parametrize("package", MAINS)
def test_nothing_asked_is_bad_usage_and_says_what_there_is(
    package: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(package) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert f"python -m {package}" in told.err
    assert exit_code(f"{package} --help") == 0
    assert capsys.readouterr().out == told.err


def test_what_is_slow_to_import_is_not_imported_for_help() -> None:
    """All packages in one process; each command imports what it does when it is called."""
    code = (
        "import sys\n"
        f"for package in {list(MAINS)}: __import__(f'{{package}}.__main__')\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    slow = {"cloudvolume", "dask", "matplotlib", "pandas", "scipy", "sklearn", "torch", "zarr"}
    assert slow & set(run.stdout.split()) == set()
    assert set(MAINS) <= set(run.stdout.split())


@pytest.mark.parametrize("words", COMMANDS)
def test_help_has_an_example_and_a_sentence_for_every_option(
    words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    assert exit_code(f"{words} --help") == 0
    text = capsys.readouterr().out
    assert f"-m {words.split(maxsplit=1)[0]}" in text.partition("Example: ")[2].splitlines()[0]
    silent = re.findall(r"^. +(--\S+) [^a-z(]*\s\s+\((?:default|required)", text, re.MULTILINE)
    assert silent == []
    assert all(option in text for option in ("--help", "--check", "--debug"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("eval --out x", "at least 1 runs"),
        ("eval compare x", "at least 2 runs"),
        ("eval p.csv --criterion best", "--criterion"),
        ("ingest nothing", "it has phantom, init, check, plan, run"),
        ("ingest run d --num-tasks 3", "go together"),
        ("ingest plan", "Missing"),
        ("shards pack d --view patch --out o --view cube", "--view is given more than once"),
        ("shards inspect", "Missing"),
        ("shards bench u --no-such 3", "no-such"),
        ("trainer predict", "say which run"),
        ("trainer predict a b", "say --out FOLDER"),
        ("trainer batch-size --data d", "say which recipe: python -m trainer batch-size RECIPE"),
        ("trainer --data d", "say which recipe: python -m trainer train RECIPE"),
        ("trainer augment nothing --data d --out o", "no recipe 'nothing' of python -m trainer a"),
        ("slurm submit nothing", "no job 'nothing'"),
        ("trainer nothing --data d", "unknown recipe or command 'nothing'"),
        ("trainer unet3d_small --data d --epochs 0", "epochs must be positive"),
        ("trainer unet3d_small --data d --epochs 3 --epochs 4", "--epochs is given more than once"),
        ("trainer unet3d_small --data d --augment.flip --augment.no-flip", "given more than once"),
        ("trainer unet3d_small --data d --batch_size 3 --batch-size=4", "given more than once"),
        ("trainer unet3d_small --data d --epoch 3", "--epochs"),
        ("trainer recipes now", "now"),
        ("eval p.csv --out=", "--out= is empty"),
        ("eval p.csv --out ''", "the argument after --out is empty"),
        ("shards copy '' o", "the first argument is empty"),
    ],
)
def test_bad_usage_exits_with_2(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(words) == 2
    told = capsys.readouterr()
    assert said in " ".join(told.err.split())
    assert told.out == ""


@pytest.mark.parametrize(
    "words",
    [
        "eval p.csv --out o",
        "ingest run d --scheduler processes",
        "shards index u --class-names a --class-names b c",
        "trainer unet3d_small --data d --epochs 3",
        "trainer predict r --split val --split test",
        f"trainer augment {next(iter(RECIPES))} --data d --out o",
    ],
)
def test_check_reads_the_arguments_and_does_nothing(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code(f"{words} --check") == 0
    assert list(tmp_path.iterdir()) == []


def test_an_option_of_many_values_that_comes_twice_keeps_them_all() -> None:
    seen: list[tuple[str, ...]] = []

    def command(url: str, *, names: tuple[str, ...] = (), size: int = 3) -> None:
        """Take names."""
        seen.append((url, *names, str(size)))

    def main(args: list[str]) -> None:
        run_named(Group(about="about", commands={"c": command}), args, prog="p")

    words = ["c", "--names", "a", "--size", "4", "--names=b", "--names", "c", "d", "--url", "u"]
    assert run_command(main, words) == 0
    assert seen == [("u", "a", "b", "c", "d", "4")]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES,
                                    errno.EMFILE, errno.ENAMETOOLONG])  # fmt: skip
def test_errors_of_the_system_name_file_and_cure(
    number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    error = OSError(number, os.strerror(number), "/data/x")
    assert run_command(raising(error), []) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"error: /data/x: {os.strerror(number)}; ")
    assert told.count("\n") == 1


def test_a_full_disk_without_a_name_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    code = "import sys; from shards.cli.command import run_command; "
    code += "sys.exit(run_command(lambda args: print('x' * 9), []))"
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", code],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert "No space left on device; free space there" in ended.stderr


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (IndexError("tuple index"), "IndexError (tuple index); this should have been a result"),
        (RecursionError("too deep"), "error: defect in synshards at tests/test_command.py:"),
        (ZeroDivisionError("division by zero"), "please report it with what --debug prints"),
        (MemoryError(), "not enough memory; use fewer workers"),
        (
            ImportError("x.so: failed to map segment from shared object"),
            "not enough memory to load",
        ),
        (ValueError("a\nb"), "error: a b"),
        (ValueError(), "error: ValueError"),
        (RuntimeError("can't start new thread"), "cannot start another thread; raise the limit"),
        (RuntimeError("stopped"), "error: stopped"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a/b"), "error: a/b: No such file"),
    ],
)
def test_every_error_is_one_line(
    error: Exception, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(raising(error), ["x"]) == 1
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert run_command(raising(error), ["x", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_names_that_are_not_text_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(raising(AssertionError()), [os.fsdecode(b"a\xff")]) == 2
    assert r"b'a\xff' is not UTF-8 text" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", "8\\xd78 \\u03c4\n"), ("latin-1", "8×8 \\u03c4\n")]
)
def test_a_terminal_of_another_encoding_shows_what_it_can(encoding: str, shown: str) -> None:
    code = "import sys; from shards.cli.command import run_command; "
    code += "sys.exit(run_command(lambda args: print('8×8 τ'), []))"
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout.decode(encoding) == shown


@pytest.mark.parametrize("package", ["shards", "eval"])
def test_interrupts_while_modules_are_imported_show_no_traceback(package: str) -> None:
    command = [sys.executable, "-v", "-m", package, "--help"]  # -v tells each import
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        while "import 'dataclasses'" not in process.stderr.readline():
            pass
        process.send_signal(signal.SIGINT)
        told = process.stderr.read()
    assert process.returncode == -signal.SIGINT
    assert "Traceback" not in told


def test_no_reader_of_the_output_is_no_error() -> None:
    code = "import sys; from shards.cli.command import run_command; "
    code += "sys.exit(run_command(lambda args: [print('x' * 99) for _ in range(99999)], []))"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1
