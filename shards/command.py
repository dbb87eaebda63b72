"""What every command line of this project shares: exit codes and errors of one line."""

import sys
import traceback
from collections.abc import Callable, Sequence

from shards.urls import public_url, without_secrets

FAILED = 1


def run_command(main: Callable[[list[str]], None], argv: Sequence[str]) -> int:
    """Run `main` on the arguments and return the process's exit code.

    0 done, 1 failed, 2 bad usage (the argument parser exits with it). A `ValueError`, `OSError`
    or `RuntimeError` becomes one line on standard error; with `--debug` anywhere among the
    arguments the traceback is shown as well. Other exceptions are defects and are not caught.
    `main` gets URLs without their passwords, which stay known to this process: see `shards.urls`.
    """
    args = [arg for arg in argv if arg != "--debug"]
    try:
        main([_public(arg) for arg in args])
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output left; nothing more to say to it
        return FAILED
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command continues where this one stopped\n")
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        if len(args) != len(argv):
            traceback.print_exc()
        sys.stderr.write(f"error: {_message(error)}\n")
        return FAILED
    return 0


def _public(arg: str) -> str:
    """Return an argument without the password of its URL: `URL` or `--option=URL`."""
    option, equals, value = arg.partition("=") if arg.startswith("-") else ("", "", arg)
    return option + equals + public_url(value)


def _message(error: Exception) -> str:
    return without_secrets(" ".join((str(error) or type(error).__name__).split()))
