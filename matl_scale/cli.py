"""What a command is called, what its output takes, and how it ends when something is wrong.

A command reads its command line inside `run_command` too, so that --help is printed like everything else. An error is one
line on standard error; exit code 2 means that the user gave something unusable, 1 anything else.
"""

import os
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from matl_scale.errors import InputError, RunError, explain_os_error
from matl_scale.launcher import read_launch
from matl_scale.text import prepare_streams

INTERRUPTED = 130  # as a shell reports a command that Ctrl-C ended
NO_READER = 1  # what was printed was not read to its end, as by `head`
OTHER_RANKS_WAIT_S = 40  # longer than Slurm gives a node whose launcher ignores that it is to end


def program_name(command: str) -> str:
    """Returns what the user typed to start an installed command, as `matl-train`, for its usage text and its error lines.

    That is `train.py` where the script of that name in launch/ was started, and otherwise the installed command, which also
    stands for `python -m matl_scale.commands.train`.
    """
    started = Path(sys.argv[0])
    is_script = started.name == f"{command.removeprefix('matl-')}.py" and started.parent.name != "commands"
    return started.name if is_script else command


def run_command(
    program: str,
    work: Callable[[], int],
    kind_of_os_error: type[InputError] | type[RunError] = RunError,
    after_interrupt: str = "",
) -> int:
    """Runs `work`, which returns the exit code if nothing goes wrong, and returns the exit code of the command.

    Args:
        program: What the user typed; error lines begin with it.
        kind_of_os_error: What a full disk or a missing permission is: `InputError` if the user chose the folder.
        after_interrupt: What the user can do after Ctrl-C.

    Raises:
        SystemExit: With code 2 for an `InputError` and 1 for a `RunError`, after one line on standard error.
    """
    prepare_streams()
    try:
        return run_and_flush(work)
    except BrokenPipeError:
        if not silence_unread_output():
            raise  # another pipe than that of standard output
        return NO_READER
    except (InputError, RunError) as error:
        exit_with_error(program, error)
    except OSError as error:
        text = explain_os_error(error)
        if text is None:
            raise
        exit_with_error(program, kind_of_os_error(text))
    except KeyboardInterrupt:
        print(f"{program}: interrupted{'; ' if after_interrupt else ''}{after_interrupt}", file=sys.stderr, flush=True)
        return INTERRUPTED


def is_other_rank() -> bool:
    """Returns whether a first rank besides this one meets the errors of all."""
    try:
        return read_launch().rank > 0
    except InputError:
        return False


def run_and_flush(work: Callable[[], int]) -> int:
    """Runs `work`, and writes what it has printed while a pipe without a reader can still be handled."""
    try:
        code = work()
    except SystemExit:  # of --help
        sys.stdout.flush()
        raise
    sys.stdout.flush()
    return code


def silence_unread_output() -> bool:
    """Returns whether nobody reads standard output any more; it then leads nowhere, so that Python's last flush succeeds."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):  # no file of the system: a test's, or a notebook's
        return False
    poll = select.poll()
    poll.register(descriptor, 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    return True


def exit_with_error(program: str, error: object) -> NoReturn:
    """Prints one line on standard error and exits with code 2, or 1 for a `RunError`.

    Usually all ranks meet the same error in what the user gave. The first rank then speaks for all: the launcher ends the
    others while they wait here. An error of one rank alone is printed when its wait is over; what happens to a run may
    differ between ranks and is printed at once.
    """
    if is_other_rank() and not isinstance(error, RunError):
        time.sleep(OTHER_RANKS_WAIT_S)
    print(f"{program}: error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    sys.exit(1 if isinstance(error, RunError) else 2)
