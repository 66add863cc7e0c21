"""What one rank does for all."""

from collections.abc import Callable
from typing import TypeVar, cast

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from matl_scale.errors import InputError, RunError
from matl_scale.files import explain_os_error

Result = TypeVar("Result")


def on_main(accelerator: Accelerator, function: Callable[[], Result]) -> Result:
    """Runs `function` on the first rank only; every rank gets its result, or its error.

    Raises:
        InputError: `function` raised it.
        RunError: `function` raised it, or met a full disk or missing permissions.
    """
    outcome: list[object] = [None, None]
    if accelerator.is_main_process:
        try:
            outcome[0] = function()
        except (InputError, RunError) as error:
            outcome[1] = error
        except OSError as error:
            reason = explain_os_error(error)
            if reason is None:
                raise
            outcome[1] = RunError(reason)
    broadcast_object_list(outcome)
    if isinstance(outcome[1], Exception):
        raise outcome[1]
    return cast(Result, outcome[0])
