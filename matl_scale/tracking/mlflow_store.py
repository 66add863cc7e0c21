"""The address of the MLflow store: which one a run is copied to, and how it is shown to people."""

import json
import os
import re
from pathlib import Path

from matl_scale.runs.layout import RunFolder


def default_store(runs: Path) -> str:
    """Returns the tracking URI: MLflow's own variable, else a SQLite file in the folder of runs."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(runs / 'mlflow.db').resolve()}"


def without_password(uri: str) -> str:
    """Returns an address that may be logged."""
    return re.sub(r"(://[^/:@]*):[^/@]*@", r"\1:…@", uri)


def how_to_view(folder: Path) -> str | None:
    """Returns the page of a run in MLflow's UI, or the command that shows it; None if the run has no copy yet."""
    path = RunFolder(folder).mlflow_file
    if not path.is_file():
        return None
    state = json.loads(path.read_text(encoding="utf-8"))
    # without `workflowType` the UI shows its pages for language models
    page = f"#/experiments/{state['experiment_id']}/runs/{state['run_id']}?workflowType=machine_learning"
    uri = without_password(state["tracking_uri"])
    if uri.startswith("http"):
        return f"{uri.rstrip('/')}/{page}"
    return f"mlflow ui --backend-store-uri {uri}, then http://127.0.0.1:5000/{page}"
