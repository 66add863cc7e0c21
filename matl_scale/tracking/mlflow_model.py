"""Logs a run's best network as an MLflow model, which takes images and the name of a task and returns its
probabilities, decisions or logits."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from matl_scale.runs.about import PACKAGE, installed_packages
from matl_scale.runs.layout import CHECKPOINT_FILE, DECISIONS_FILE, RunFolder
from matl_scale.storage.files import file_sha256
from matl_scale.tracking.mlflow_store import STORE_VARIABLE

MODEL_NAME = "best"
CODE = Path(__file__).parents[1]


def find_best(folder: Path) -> Path | None:
    """Returns the folder of a run's best network; None if it has none."""
    found = sorted(RunFolder(folder).best_folder.glob(f"step-*/{CHECKPOINT_FILE}"))
    return found[-1].parent if found else None


def build_signature(best: Path) -> Any:
    """Returns the signature: uint8 images `(batch, 3, size, size)`, a task name and the kind of output in, float32 out, `(batch,
    num_classes)` or, of decisions, `(batch, 1)`."""
    from mlflow.models import ModelSignature
    from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec

    info = json.loads((best / CHECKPOINT_FILE).read_text(encoding="utf-8"))
    size, first_task = info["image_size"], info["classes"][0][0]
    return ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, 3, size, size))]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, -1))]),
        params=ParamSchema(
            [
                ParamSpec("task", DataType.string, default=first_task),
                ParamSpec("output", DataType.string, default="probabilities"),
            ]
        ),
    )


@contextlib.contextmanager
def chosen_store(uri: str) -> Iterator[None]:
    """Makes a store MLflow's own for a `with` block. MLflow writes it into its environment variable too, where the next run that
    this process copies would take it for the user's choice.
    """
    import mlflow

    before = os.environ.get(STORE_VARIABLE)
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        os.environ.pop(STORE_VARIABLE, None)
        if before is not None:
            os.environ[STORE_VARIABLE] = before


def log_best_model(uri: str, best: Path, state: dict[str, Any], save: Callable[[], None]) -> None:
    """Logs the best network of a run, from `find_best`, as its model, once, however often that is tried; and once more when its
    decisions were fitted again.

    The state of the run's copy gets the id of the model, and its step and the hash of its decisions once the model is complete;
    `save` writes it to disk. Earlier versions wrote no hash, of models without decisions.
    """
    import mlflow
    from mlflow.models import Model

    step, file = int(best.name.removeprefix("step-")), best / DECISIONS_FILE
    decisions = file_sha256(file) if file.is_file() else ""
    if (state.get("model_step"), state.get("model_decisions", "")) == (step, decisions):
        return
    with chosen_store(uri):
        if (state.get("model_begun"), state.get("begun_decisions", "")) != (step, decisions):
            # `Model.log` alone would choose MLflow's default experiment, and a folder below the current one
            model = mlflow.initialize_logged_model(
                name=MODEL_NAME, source_run_id=state["run_id"], experiment_id=state["experiment_id"]
            )
            state |= {"model_id": model.model_id, "model_begun": step, "begun_decisions": decisions}
            save()
        packages = installed_packages()
        packages.pop(PACKAGE, None)  # it is logged as code
        Model.log(
            artifact_path=None,
            flavor=mlflow.pyfunc,
            run_id=state["run_id"],
            model_id=state["model_id"],
            name=MODEL_NAME,
            step=step,
            python_model=str(CODE / "deploy" / "pyfunc_model.py"),
            artifacts={"network": best.resolve().as_uri()},  # as a path, MLflow would unescape `%20` in it
            code_paths=[str(CODE)],
            signature=build_signature(best),
            pip_requirements=[f"{name}=={version.partition('+')[0]}" for name, version in packages.items()],
        )
    state |= {"model_step": step, "model_decisions": decisions}
    save()
