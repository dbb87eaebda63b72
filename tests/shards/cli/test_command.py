"""The command line: exit codes, one-line errors, and what it prints."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from shards.__main__ import main
from shards.cli.command import run_command
from shards.contract.schema import View

pytestmark = pytest.mark.timeout(60)
Packed = Callable[[View], Path]


def test_pack_inspect_verify(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, sheet = tmp_path / "out", tmp_path / "sheet.png"
    arguments = ["pack", str(store), "--view", "cube", "--out", str(out)]
    assert run_command(main, [*arguments, "--samples-per-shard", "16"]) == 0
    assert "left out: 7 unlabelled" in capsys.readouterr().out
    assert run_command(main, ["verify", str(out)]) == 0
    assert run_command(main, ["inspect", str(out), "--sheet", str(sheet)]) == 0
    printed = capsys.readouterr().out
    assert "no faults" in printed
    assert "cube images (2, 5, 7, 3) (c, z, y, x) uint8" in printed
    with Image.open(sheet) as image:
        assert image.size[0] > image.size[1] > 100


def test_faults_are_printed_and_fail(altered: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (altered / "val-000000.tar").unlink()
    assert run_command(main, ["verify", str(altered)]) == 1
    captured = capsys.readouterr()
    assert "val-000000.tar: no such file" in captured.out
    assert "1 faults" in captured.err


def test_bench_says_rates_and_headroom(packed: Packed, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", str(packed("cube")), "--batch-size", "8", "--seconds", "0.2"]
    for more in ([], ["--around", "1"], ["--window-shards", "1", "--step-ms", "10000"]):
        assert run_command(main, [*arguments, *more]) == 0
    printed = capsys.readouterr().out
    assert "raw sequential warm read" in printed
    assert "reading keeps up" in printed
    assert "a batch of 8 holds samples of 1." in printed


def test_copy_index_and_serve_from_the_command_line(
    packed: Packed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "copy"
    assert run_command(main, ["copy", str(packed("cube")), str(target)]) == 0
    for path in target.iterdir():
        if path.suffix != ".tar":
            path.unlink()
    names = ["--class-names", "inhibitory", "excitatory"]
    assert run_command(main, ["index", str(target), *names]) == 0
    assert run_command(main, ["verify", str(target)]) == 0
    assert "no faults" in capsys.readouterr().out
    command = [sys.executable, "-m", "shards", "serve", str(target), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().split()[3]
            assert run_command(main, ["verify", url]) == 0
        finally:
            server.kill()


def test_errors_take_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(main, ["inspect", str(tmp_path / "nowhere")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit) as stopped:
        main(["pack"])
    assert stopped.value.code == 2
