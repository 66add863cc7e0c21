"""The address of the MLflow store: which one a run is copied to, and how it is shown to people."""

import json
import os
import re
import shlex
from pathlib import Path
from typing import Any
from urllib.parse import quote

from matl_scale.runs.layout import RunFolder

STORE_VARIABLE = "MLFLOW_TRACKING_URI"
# nothing in it means anything else than itself, so that SQLAlchemy need not be imported before the first step of a run
PLAIN_SQLITE = re.compile(r"sqlite:///([A-Za-z0-9_./-]+)")


def default_store(runs: Path) -> str:
    """Returns the tracking URI: MLflow's own variable, else a SQLite file in the folder of runs."""
    return os.environ.get(STORE_VARIABLE) or sqlite_uri(runs / "mlflow.db")


def store_of(folder: Path) -> str:
    """Returns the tracking URI of a run's folder: that of its last copy, else the default store."""
    return read_copy(folder).get("tracking_uri") or default_store(folder.parent)


def read_copy(folder: Path) -> dict[str, Any]:
    """Returns how far the copy of a run is, from mlflow.json; empty if it was never copied."""
    path = RunFolder(folder).mlflow_file
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content


def sqlite_uri(path: Path) -> str:
    """Returns the URI by which MLflow opens exactly this SQLite file, whatever the names of its folders hold."""
    absolute = str(path.resolve())
    uri = f"sqlite:///{absolute}"
    if sqlite_file(uri) == Path(absolute):
        return uri
    # `?` and `%20` mean something in a URI. Named with its driver, since MLflow creates the folder that it reads in the
    # shorter form, escapes included
    return f"sqlite+pysqlite:///{quote(absolute, safe='/ ')}"


def is_sqlite(uri: str) -> bool:
    """Returns whether the URI is that of a SQLite file."""
    return uri.partition(":")[0].partition("+")[0] == "sqlite"


def sqlite_file(uri: str) -> Path:
    """Returns the file that MLflow opens for the URI of a SQLite store."""
    if plain := PLAIN_SQLITE.fullmatch(uri):
        return Path(plain[1])
    from sqlalchemy import make_url

    return Path(make_url(uri).database or "")


def without_password(uri: str) -> str:
    """Returns an address that may be logged."""
    return re.sub(r"(://[^/:@]*):[^/@]*@", r"\1:…@", uri)


def how_to_view(folder: Path) -> str | None:
    """Returns the page of a run in MLflow's UI, or the shell command that shows it; None if the run has no copy yet."""
    state = read_copy(folder)
    if "run_id" not in state:
        return None
    # without `workflowType` the UI shows its pages for language models
    page = f"#/experiments/{state['experiment_id']}/runs/{state['run_id']}?workflowType=machine_learning"
    uri = without_password(state["tracking_uri"])
    if uri.startswith("http"):
        return f"{uri.rstrip('/')}/{page}"
    return f"mlflow ui --backend-store-uri {shlex.quote(uri)}, then http://127.0.0.1:5000/{page}"
