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
    try:
        return work()
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
