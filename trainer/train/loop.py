"""The training loop: batches in, steps, checkpoints; validation after each epoch."""

import math
import os
import sys
import time
from contextlib import AbstractContextManager, ExitStack, nullcontext

import torch
from torch import Tensor

from shards.cli.progress import Advance, progress
from shards.storage.locks import sole_writer
from shards.stream.shardset import open_shards
from trainer.setup.classes import is_judged, val_counts
from trainer.setup.distributed import any_rank, make_accelerator
from trainer.setup.faults import with_cures
from trainer.setup.process import how_to_wait
from trainer.train.logs import Meter, RunLog
from trainer.train.run_state import Job, Session
from trainer.train.saving import complete_run, save_session, write_run
from trainer.train.signals import StopRequest, listening
from trainer.train.start import start_session
from trainer.train.step import train_step
from trainer.train.validation import end_epoch

ASK_EVERY = 4  # steps between asking all ranks whether to save or stop
SILENT: AbstractContextManager[Advance] = nullcontext(lambda count, note="": None)


def train(job: Job) -> bool:
    """Train until every epoch is done, continuing an unfinished run in `job.out`.

    Returns True when it is finished; False when a signal stopped it after a checkpoint.
    """
    accelerator = make_accelerator(job.config, job.system)
    main = accelerator.is_main_process

    def say(text: str) -> None:
        if main:
            sys.stderr.write(f"{text}\n")

    parts = accelerator.num_processes * job.config.accumulate
    with (
        ExitStack() as opened,
        sole_writer(job.out) if main else nullcontext(),
        with_cures(batch_size=-(-job.config.batch_size // parts), training=True),
    ):
        sets = [opened.enter_context(open_shards(url, fold=job.fold)) for url in job.data]
        session = start_session(job, accelerator, sets, say)
        if session.finished:
            complete_run(session)
            say(f"{job.out} is finished already: {_best(session)}")
            return True
        write_run(session, "running")
        with (
            listening() as stop,
            RunLog(job.out, active=main, step=session.steps_done) as log,
            session.stream,
        ):
            finished = _run(session, log, stop)
        write_run(session, "finished" if finished else "stopped")
        if finished:
            say(f"{job.out} is finished: {_best(session)}")
        else:
            say(f"stopped at step {session.steps_done}; the same command continues")
    accelerator.end_training()
    return finished


def _run(session: Session, log: RunLog, stop: StopRequest) -> bool:
    """Train to the end of the run; False where a signal stopped it after a checkpoint."""
    left = session.total_steps - session.steps_done
    session.say(
        f"{session.job.recipe}: {left} steps of {session.config.batch_size} images, "
        f"{session.stream.dropped_per_epoch} images of an epoch's tail left out, "
        f"{session.accelerator.num_processes} ranks, {torch.get_num_threads()} threads each, "
        f"{how_to_wait(os.environ) or 'the default wait policy of OpenMP'}"
    )
    shown = progress(session.job.recipe, left) if session.accelerator.is_main_process else SILENT
    meter, last_save = Meter(), time.monotonic()
    with shown as advance:
        for batch in meter.timed(session.stream):
            loss = train_step(session, batch)
            session.losses.append(loss)
            session.progress.step += 1
            meter.count(session.config.batch_size)
            save, stopping = _due(session, stop, last_save)
            ends = session.progress.step == session.stream.steps_per_epoch
            saves = ends or save or stopping
            logs = ends or session.steps_done % session.job.system.log_steps == 0
            if logs or saves:
                _require_finite(session, weights=saves)
            advance(1, _report(session, log, meter, loss) if logs else "")
            if ends:
                session.progress.epoch, session.progress.step = batch.epoch + 1, 0
                end_epoch(session, log)
                meter.restart()
            elif saves:
                save_session(session, ["last"])
            if session.finished:
                return True
            if stopping:
                return False
            if saves:
                last_save = time.monotonic()
    return True


def _report(session: Session, log: RunLog, meter: Meter, loss: Tensor) -> str:
    state, speed = session.progress, meter.report()
    rate = session.optimizer.param_groups[0]["lr"]
    log.write("train", session.steps_done, state.epoch, {"loss": float(loss), "lr": rate, **speed})
    return (
        f"epoch {state.epoch + 1}/{session.config.epochs} loss {state.loss_sum / state.step:.3f} "
        f"{speed['samples_per_s']:.1f} images/s, {speed['wait_share']:.0%} waiting"
    )


def _require_finite(session: Session, *, weights: bool) -> None:
    """Read the losses so far, which waits for the device; stop if one is not a number.

    Before a save the weights are looked at as well: a step may have spoilt them that no loss has
    shown yet.
    """
    session.add_losses()
    good = math.isfinite(session.progress.loss_sum) and (
        not weights or all(bool(p.isfinite().all()) for p in session.net.parameters())
    )
    (bad,) = any_rank(session.accelerator, not good)
    if bad:
        raise RuntimeError(
            f"the loss is not a number in epoch {session.progress.epoch + 1}; lower --lr, or set "
            "--clip-norm"
        )


def _due(session: Session, stop: StopRequest, last_save: float) -> tuple[bool, bool]:
    """Return (save, stop): what is due after this step, the same on every rank."""
    step, every = session.progress.step, session.job.system.checkpoint_steps
    save = bool(every) and step % every == 0
    if session.accelerator.num_processes > 1 and step % ASK_EVERY:
        return save, False
    old = time.monotonic() - last_save > session.job.system.checkpoint_s
    asked_save, asked_stop = any_rank(session.accelerator, old, stop.asked)
    return save or asked_save, asked_stop


def _best(session: Session) -> str:
    state = session.progress
    if not is_judged(val_counts(session.shards)):
        return "best is the last epoch, as val holds one class alone"
    ended = f"; ended early: {state.ended}" if state.ended else ""
    best = f"best val {session.config.monitor} {state.best:.4f} in epoch {state.best_epoch + 1}"
    return best + ended
