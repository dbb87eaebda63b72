"""Chains of stand-in commands on a real Slurm: order, failure, resume, requeue, cancel."""

import shlex
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from slurm import slurm_commands as scheduler
from slurm.job import Step
from slurm.submit import Request, submit

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warned")]
Shell = Callable[..., Request]


@pytest.fixture
def shell(tmp_path: Path, chain_of: Shell) -> Shell:
    """Return a maker of chains in a folder hard to quote."""
    folder = tmp_path / 'it\'s "$HOME"'
    folder.mkdir()
    return partial(chain_of, folder=folder)


def step(name: str, *lines: str, limit: int | None = None) -> Step:
    commands = tuple(("-c", line) for line in lines)
    return Step(name=name, commands=commands, limit=limit)


def test_array_runs_at_most_so_many_and_in_parts(cluster: Any, shell: Shell) -> None:
    """Ten tasks, two at once, over a MaxArraySize of six; the next step comes after all."""
    line = "echo start >>times; sleep 0.5; echo end >>times"
    request = shell(
        step("ingest", *[line] * 10, limit=2),
        step("finish", 'grep -c end times >"a result"'),
    )
    assert list(submit(request, scheduler.max_array_size(), resume=False)) == [
        "ingest: 0 done, 0 queued, 10 submitted",
        "finish: 0 done, 0 queued, 1 submitted",
    ]
    assert cluster.wait(request.run) == "done"
    assert (request.workdir / "a result").read_text() == "10\n"
    running = most = 0
    for word in (request.workdir / "times").read_text().split():
        running += 1 if word == "start" else -1
        most = max(most, running)
    assert most == 2


def test_a_failed_link_stops_what_follows_and_resume_continues(cluster: Any, shell: Shell) -> None:
    failing = 'echo "was here" >>seen-1; [ -e cure ] || { echo "no cure in $PWD"; exit 3; }'
    request = shell(
        step("plan", "echo >>seen-plan"),
        step("ingest", "echo >>seen-0", failing, "echo >>seen-2"),
        step("finish", "echo >>seen-finish"),
        step("pack", "echo >>seen-pack"),
    )
    list(submit(request, 1001, resume=False))
    assert cluster.wait(request.run) == "failed"
    assert cluster.states(request.run) == {
        "plan": ["done"],
        "ingest": ["done", "failed", "done"],
        "finish": ["blocked"],
        "pack": ["blocked"],
    }
    text = cluster.describe(request.run)
    assert "ingest task 1 failed: exit code 3 on n" in text
    assert f"no cure in {request.workdir}" in text
    assert "1 blocked (by ingest)" in text
    assert f"continue with: cd {shlex.quote(str(request.workdir))} && {request.retry}" in text

    (request.workdir / "cure").touch()
    assert list(submit(request, 1001, resume=True)) == [
        "plan: 1 done, 0 queued, 0 submitted",
        "ingest: 2 done, 0 queued, 1 submitted",
        "finish: 0 done, 0 queued, 1 submitted",
        "pack: 0 done, 0 queued, 1 submitted",
    ]
    assert cluster.wait(request.run) == "done"
    counts = {p.name: len(p.read_text().splitlines()) for p in request.workdir.glob("seen-*")}
    once = dict.fromkeys(["plan", "0", "2", "finish", "pack"], 1)
    assert counts == {f"seen-{name}": count for name, count in {**once, "1": 2}.items()}


def test_resume_waits_for_tasks_that_still_run(cluster: Any, shell: Shell) -> None:
    slow = "for _ in {1..3000}; do [ ! -e go ] || exit 0; sleep 0.1; done; exit 1"
    request = shell(step("ingest", slow, "[ -e cure ]"), step("finish", "echo >>seen"))
    list(submit(request, 1001, resume=False))
    cluster.wait_for(lambda: cluster.states(request.run)["ingest"] == ["running", "failed"])
    (request.workdir / "cure").touch()
    first, _ = submit(request, 1001, resume=True)
    assert first == "ingest: 0 done, 1 queued, 1 submitted"
    cluster.wait_for(lambda: cluster.states(request.run)["ingest"] == ["running", "done"])
    assert cluster.states(request.run)["finish"] == ["pending"]
    (request.workdir / "go").touch()
    assert cluster.wait(request.run) == "done"
    assert (request.workdir / "seen").read_text() == "\n"


def test_a_killed_task_is_seen_without_accounting(cluster: Any, shell: Shell) -> None:
    request = shell(step("ingest", "[ -e cure ] || kill -9 $PPID", "true"))
    list(submit(request, 1001, resume=False))
    assert cluster.wait(request.run) == "failed"
    assert "killed without a word" in cluster.describe(request.run)
    (request.workdir / "cure").touch()
    list(submit(request, 1001, resume=True))
    assert cluster.wait(request.run) == "done"


def test_cancel_takes_the_chain_out_and_resume_brings_it_back(cluster: Any, shell: Shell) -> None:
    waits = "[ -e go ] || sleep 300"
    request = shell(step("ingest", waits, waits, limit=1), step("finish", "true"))
    list(submit(request, 1001, resume=False))
    cluster.wait_for(lambda: "running" in cluster.states(request.run)["ingest"])
    result = cluster.slurm("cancel", str(request.run), folder=request.workdir)
    assert (result.returncode, result.stdout) == (0, "cancelled 3 tasks\n")
    assert cluster.wait(request.run) == "failed"
    text = cluster.describe(request.run)
    assert "ended by Slurm" in text
    assert "1 cancelled" in text
    (request.workdir / "go").touch()
    list(submit(request, 1001, resume=True))
    assert cluster.wait(request.run) == "done"


def test_resume_takes_new_resources_but_no_new_commands(cluster: Any, shell: Shell) -> None:
    first = shell(step("ingest", 'echo "$SLURM_CPUS_PER_TASK" >cpus; [ -e cure ]'))
    list(submit(first, 1001, resume=False))
    assert cluster.wait(first.run) == "failed"
    (first.workdir / "cure").touch()
    with pytest.raises(ValueError, match="submitted with other commands"):
        list(submit(replace(first, steps=(step("ingest", "true"),)), 1001, resume=True))
    with pytest.raises(ValueError, match="holds a chain: add --resume"):
        list(submit(first, 1001, resume=False))
    list(submit(replace(first, options={"ingest": {"cpus-per-task": "2"}}), 1001, resume=True))
    assert cluster.wait(first.run) == "done"
    assert (first.workdir / "cpus").read_text() == "2\n"


def test_what_slurm_refuses_is_said_and_mended(cluster: Any, shell: Shell) -> None:
    request = shell(step("ingest", "true"), step("finish", "true"))
    bad = replace(request, options={"finish": {"partition": "nowhere"}})
    with pytest.raises(ValueError, match=r"invalid partition specified: nowhere.*correct the"):
        list(submit(bad, 1001, resume=False))
    list(submit(request, 1001, resume=True))
    assert cluster.wait(request.run) == "done"


def test_email_and_comment_reach_slurm_whole(cluster: Any, shell: Shell) -> None:
    comment = 'it\'s "25 %" of $HOME \\ more'
    options = {"comment": comment, "mail-user": "a@b.c", "mail-type": "END", "hold": ""}
    request = replace(shell(step("ingest", "true")), options={"": options})
    list(submit(request, 1001, resume=False))
    job_id = cluster.statuses(request.run)[0].step.jobs[0].id
    shown = cluster.call("scontrol", "show", "job", job_id)
    assert f"Comment={comment} \n" in shown
    assert "MailUser=a@b.c" in shown
    scheduler.scancel([job_id])
