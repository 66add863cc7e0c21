"""Whether somebody deleted a run's copy in MLflow, or the experiment that it belongs to, and how to restore it.

MLflow keeps what is deleted until `mlflow gc`; until then it refuses to write there.
"""

import shlex
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any

from matl_scale.errors import Problem
from matl_scale.tracking.mlflow_store import without_password

DELETED = "deleted"  # MLflow's word for a stage of life
# of the errors with which a store refuses what was deleted; a store that is away has others
REFUSALS = ("INVALID_PARAMETER_VALUE", "INVALID_STATE", "RESOURCE_DOES_NOT_EXIST")
MISSING = "RESOURCE_DOES_NOT_EXIST"


def may_be_deletion(error: Exception) -> bool:
    """Returns whether a client's error may come from writing to what was deleted."""
    return getattr(error, "error_code", None) in REFUSALS


def find_deletion(client: Any, uri: str, copy: Mapping[str, Any], experiment_name: str) -> Problem | None:
    """Returns what was deleted of a run's copy, and the commands that restore it; None if nothing was.

    Args:
        client: MLflow's client of the store.
        uri: The address of the store.
        copy: `run_id` and `experiment_id` of the copy; empty if it has yet to be created.
        experiment_name: The experiment that a new copy goes to.
    """
    if "run_id" not in copy:
        experiment = client.get_experiment_by_name(experiment_name)
        return explain_experiment(experiment, uri, "") if is_deleted(experiment) else None
    run, experiment = ask(client.get_run, copy["run_id"]), ask(client.get_experiment, copy["experiment_id"])
    if run is None:
        return Problem(
            f"MLflow run {copy['run_id']} is no longer in {without_password(uri)}: it was deleted for good (mlflow gc), or the "
            "store is another one than before.",
            "It cannot be restored.",
        )
    if is_deleted(experiment):
        return explain_experiment(experiment, uri, f", and run {copy['run_id']} with it")
    if run.info.lifecycle_stage != DELETED:
        return None
    return Problem(
        f"MLflow run {copy['run_id']} was deleted in {without_password(uri)}.",
        f"Restore it: `{mlflow_command(uri, 'runs restore --run-id', copy['run_id'])}`.",
    )


def explain_experiment(experiment: Any, uri: str, and_more: str) -> Problem:
    """Describes a deleted experiment."""
    deleted_at = datetime.fromtimestamp(experiment.last_update_time / 1000, timezone.utc)
    command = mlflow_command(uri, "experiments restore --experiment-id", experiment.experiment_id)
    return Problem(
        f"MLflow experiment `{experiment.name}` ({experiment.experiment_id}) was deleted in {without_password(uri)} on "
        f"{deleted_at:%Y-%m-%d %H:%M} UTC{and_more}.",
        f"Restore it: `{command}`.",
    )


def is_deleted(experiment: Any) -> bool:
    return experiment is not None and experiment.lifecycle_stage == DELETED


def ask(look_up: Callable[[str], Any], name: str) -> Any:
    """Returns what a client finds; None if the store has no such thing."""
    try:
        return look_up(name)
    except Exception as error:  # `MlflowException`, which is slow to import
        if getattr(error, "error_code", None) == MISSING:
            return None
        raise


def mlflow_command(uri: str, command: str, name: str) -> str:
    """Returns a shell command of MLflow for a store."""
    return f"MLFLOW_TRACKING_URI={shlex.quote(without_password(uri))} mlflow {command} {name}"
