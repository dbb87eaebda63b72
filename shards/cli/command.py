"""The common part of all command lines: exit codes, errors of one line, usage."""

import errno
import os
import select
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from shards.storage.urls import public_url, without_secrets
from shards.workers.threads import end_in_spite_of_threads

FAILED, BAD_USAGE, INTERRUPTED = 1, 2, 130
HELP = ("-h", "--help")
EVERYWHERE = """\
With every command: --help shows its options, --check reads the arguments and does nothing more,
--debug shows the traceback of an error. Exit code: 0 done, 1 failed, 2 bad usage.
"""
OURS = Path(__file__).resolve().parents[2]
CURES = {
    errno.ENOSPC: "free space there, or choose another folder",
    errno.EDQUOT: "free some of your quota, or choose another folder",
    errno.EROFS: "choose a folder on a file system that can be written",
    errno.EACCES: "ask its owner for access, or choose another path",
    errno.EPERM: "ask its owner for access, or choose another path",
    errno.EMFILE: "raise the limit (ulimit -n 65536), or use fewer workers or threads",
    errno.ENFILE: "the whole machine has too many files open: close other programs",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOMEM: "use fewer workers, a smaller batch, or a machine with more memory",
    errno.EIO: "the disk or the network file system failed: try again, then ask who runs it",
    errno.ESTALE: "the network file system lost the file: try again, then ask who runs it",
}


class UsageError(ValueError):
    """The arguments are wrong or do not fit together: exit code 2."""


def run_command(main: Callable[[list[str]], None], argv: Sequence[str]) -> int:
    """Run `main` on the arguments and return the process's exit code.

    0 done, 1 failed, 2 bad usage, 130 interrupted. Whatever is raised becomes one line on standard
    error; with `--debug` among the arguments the traceback is shown as well. `ValueError`,
    `OSError`, `RuntimeError` and `MemoryError` are reported as they are, any other exception as a
    defect of this project. `main` gets URLs without their passwords, which stay known to this
    process: see `shards.storage.urls`.
    """
    _prepare_process()
    own, rest = split_words(argv)
    debug = "--debug" in own
    args = [word for word in own if word != "--debug"] + rest
    try:
        _check_text(args)
        main([_public(arg) for arg in args])
        sys.stdout.flush()
    except BrokenPipeError as error:
        if _reader_left():
            return FAILED
        return _failed(error, args, debug=debug)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command continues where this one stopped\n")
        end_in_spite_of_threads(INTERRUPTED)
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the end of every command
        return _failed(error, args, debug=debug)
    return 0


def show_usage(text: str, args: Sequence[str]) -> None:
    """Print what commands there are: asked for with --help, or since nothing was said."""
    stream = sys.stdout if args else sys.stderr
    stream.write(f"{text.rstrip()}\n\n{EVERYWHERE}")
    if not args:
        sys.exit(BAD_USAGE)


def split_words(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the arguments before the first `--`, and it with those after it."""
    words = list(args)
    end = words.index("--") if "--" in words else len(words)
    return words[:end], words[end:]


def _prepare_process() -> None:
    """Let a terminal of any encoding show any text, and Ctrl-C reach Python code."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the caller
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    main_thread = threading.current_thread() is threading.main_thread()
    if main_thread and signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _check_text(args: Sequence[str]) -> None:
    for word in args:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise UsageError(_why_not_text(os.fsencode(word))) from None


def _why_not_text(word: bytes) -> str:
    try:
        return f"{word.decode()!a} is not text in this locale: set LC_ALL=C.UTF-8"
    except UnicodeDecodeError:
        return f"{word!r} is not UTF-8 text: rename the file or folder"


def _public(arg: str) -> str:
    """Return an argument without the password of its URL: `URL` or `--option=URL`."""
    option, equals, value = arg.partition("=") if arg.startswith("-") else ("", "", arg)
    return option + equals + public_url(value)


def _reader_left() -> bool:
    """Tell whether standard output has lost its reader; what is left for it is then dropped."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if not poll.poll(0):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def _failed(error: Exception, args: Sequence[str], *, debug: bool) -> int:
    if debug:
        sys.stderr.write(without_secrets("".join(traceback.format_exception(error))))
    message = without_secrets(" ".join(_explain(error, args).split()))
    sys.stderr.write(f"error: {message}\n")
    return BAD_USAGE if isinstance(error, UsageError) else FAILED


def _explain(error: Exception, args: Sequence[str]) -> str:
    match error:
        case OSError() if error.errno in CURES:
            return f"{_place(error, args)}: {os.strerror(error.errno)}; {CURES[error.errno]}"
        case OSError(filename=str(name), strerror=str(reason)):
            return f"{name}: {reason}"
        case MemoryError():
            return f"not enough memory{_of(error)}; {CURES[errno.ENOMEM]}"
        case ImportError() if "failed to map segment" in str(error):
            return f"not enough memory to load a library{_of(error)}; {CURES[errno.ENOMEM]}"
        case RuntimeError() if "can't start new thread" in str(error):
            return "cannot start another thread; raise the limit (ulimit -u, -v), or use fewer"
        case RecursionError() | NotImplementedError():
            pass  # a RuntimeError that no input should lead to
        case ValueError() | OSError() | RuntimeError():
            return str(error) or type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    mine = [(Path(f.filename), f.lineno) for f in frames]
    mine = [(p, n) for p, n in mine if p.is_relative_to(OURS) and "site-packages" not in p.parts]
    where = f" at {mine[-1][0].relative_to(OURS)}:{mine[-1][1]}" if mine else ""
    return (
        f"defect in synshards{where}: {type(error).__name__}{_of(error)}; this should have been "
        "a result or a clear message: please report it with what --debug prints"
    )


def _of(error: Exception) -> str:
    return f" ({error})" if str(error) else ""


def _place(error: OSError, args: Sequence[str]) -> str:
    """Name the file; where the system did not, the folders of this command that are full."""
    if error.filename is not None:
        return str(error.filename)
    known = [Path(word).absolute() for word in args if not word.startswith("-")]
    folders = [next(p for p in (path, *path.parents) if _is_there(p)) for path in known]
    full = {
        str(folder)
        for folder in (*folders, Path.cwd(), Path(tempfile.gettempdir()))
        if shutil.disk_usage(folder).free < 1 << 20
    }
    return "full: " + ", ".join(sorted(full)) if full else str(error)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False
