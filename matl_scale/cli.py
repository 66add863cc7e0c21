"""What a command is called, and how it ends when something is wrong.

An error is one line on standard error; exit code 2 means that the user gave something unusable, 1 anything else.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from matl_scale.errors import InputError, RunError, explain_os_error

INTERRUPTED = 130  # as a shell reports a command that Ctrl-C ended
OTHER_RANKS_WAIT_S = 40  # longer than Slurm gives a node whose launcher ignores that it is to end


def program_name(command: str) -> str:
    """Returns what the user typed to start a command, for its usage text and its error lines.

    Args:
        command: The installed command, as `matl-train`.

    Returns:
        `train.py` where the script of that name in launch/ was started, and otherwise the installed command, which also
        stands for `python -m matl_scale.commands.train`.
    """
    started = Path(sys.argv[0])
    is_script = started.name == f"{command.removeprefix('matl-')}.py" and started.parent.name != "commands"
    return started.name if is_script else command


def run_command(
    program: str,
    work: Callable[[], int],
    explain: Callable[[OSError], Exception | None] | None = None,
    after_interrupt: str = "",
) -> int:
    """Runs the work of a command and returns its exit code.

    Args:
        program: What the user typed; error lines begin with it.
        work: Returns the exit code if nothing goes wrong.
        explain: Turns an error of the operating system into an `InputError` or a `RunError`, None for a bug. By default a
            full disk and missing permissions are a `RunError`.
        after_interrupt: What the user can do after Ctrl-C.

    Raises:
        SystemExit: With code 2 for an `InputError` and 1 for a `RunError`, after one line on standard error.
    """
    try:
        return work()
    except (InputError, RunError) as error:
        exit_with_error(program, error)
    except OSError as error:
        explained = (explain or explain_as_run_error)(error)
        if explained is None:
            raise
        exit_with_error(program, explained)
    except KeyboardInterrupt:
        print(f"{program}: interrupted{'; ' if after_interrupt else ''}{after_interrupt}", file=sys.stderr, flush=True)
        return INTERRUPTED


def explain_as_run_error(error: OSError) -> RunError | None:
    """Returns a full disk or a missing permission as a `RunError`; None for any other error."""
    text = explain_os_error(error)
    return None if text is None else RunError(text)


def explain_as_input_error(error: OSError) -> InputError | None:
    """Returns the same as an `InputError`, for commands whose user chose the folder that they write to."""
    text = explain_os_error(error)
    return None if text is None else InputError(text)


def exit_with_error(program: str, error: object) -> NoReturn:
    """Prints one line on standard error and exits with code 2, or 1 for a `RunError`.

    Usually all ranks meet the same error in what the user gave. The first rank then speaks for all: the launcher ends the
    others while they wait here. An error of one rank alone is printed when its wait is over; what happens to a run may
    differ between ranks and is printed at once.
    """
    if os.environ.get("RANK", "0") != "0" and not isinstance(error, RunError):
        time.sleep(OTHER_RANKS_WAIT_S)
    print(f"{program}: error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    sys.exit(1 if isinstance(error, RunError) else 2)
