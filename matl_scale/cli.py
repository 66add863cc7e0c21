"""How a command ends when something is wrong: one line on standard error, and an exit code that says whose turn it is."""

import os
import sys
import time
from typing import NoReturn

from matl_scale.errors import RunError

OTHER_RANKS_WAIT_S = 40  # longer than Slurm gives a node whose launcher ignores that it is to end


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
