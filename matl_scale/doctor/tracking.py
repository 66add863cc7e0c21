"""MLflow: what kind of store the run will use, whether it answers, and whether its disk bears several writers."""

import base64
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from matl_scale.doctor.finding import Finding
from matl_scale.tracking.mlflow_store import default_store
from matl_scale.train.config import Config

NETWORK_FILE_SYSTEMS = (
    "nfs",
    "lustre",
    "gpfs",
    "beegfs",
    "cifs",
    "smb",
    "fuse.",
    "9p",
    "ceph",
    "orangefs",
    "panfs",
    "wekafs",
)
ANSWER_S = 5.0


def check_tracking(config: Config, *, ask: bool) -> Iterator[Finding]:
    """Checks the store of a run.

    Args:
        config: Of the run.
        ask: Whether to wait for an answer of the server.
    """
    if not config.track.mlflow:
        yield Finding("note", "mlflow", "off (`track.mlflow`): results are in the run's folder only.")
        return
    uri = default_store(config.run.folder.parent)
    kind = uri.split(":", 1)[0].split("+", 1)[0] if "://" in uri or uri.startswith("file:") else "file"
    if kind in ("http", "https"):
        if ask:
            yield ask_server(uri)
    elif kind == "sqlite":
        yield from check_sqlite(uri)
    elif kind in ("postgresql", "mysql"):
        yield check_driver(uri, kind)
    elif kind == "databricks":
        yield Finding(
            "note", "mlflow", "Databricks: not asked.", "Its own command line tells whether you are logged in."
        )
    else:
        remedy = "Unset MLFLOW_TRACKING_URI for SQLite beside the runs, or name a server (http://…)."
        yield Finding("error", "mlflow", f"{uri}: MLflow 3.13 and later refuse stores of plain files.", remedy)


def check_driver(uri: str, kind: str) -> Finding:
    """Checks that the Python package with which SQLAlchemy would reach a data base is there."""
    import sqlalchemy

    try:
        sqlalchemy.make_url(uri).get_dialect().import_dbapi()
    except (ModuleNotFoundError, sqlalchemy.exc.SQLAlchemyError) as error:
        remedy = (
            "Install it (psycopg2-binary for postgresql+psycopg2://…), or let an MLflow server talk to the data base."
        )
        return Finding("error", "mlflow", f"{kind}: {error}.", remedy)
    return Finding("ok", "mlflow", f"{kind} data base.")


def check_sqlite(uri: str) -> Iterator[Finding]:
    path = Path(uri.removeprefix("sqlite:///"))
    system = file_system_of(path)
    if system.startswith(NETWORK_FILE_SYSTEMS):
        text = f"SQLite in {path}, on a network file system ({system}), where several runs at once can break it."
        remedy = "One run at a time, or an MLflow server with PostgreSQL (README: A server for a team)."
        yield Finding("warning", "mlflow", text, remedy)
    elif not os.access(existing(path), os.W_OK):
        yield Finding(
            "error", "mlflow", f"{path} cannot be written.", "Choose another `run.dir`, or set MLFLOW_TRACKING_URI."
        )
    else:
        yield Finding("ok", "mlflow", f"SQLite in {path} ({system or 'unknown file system'}).")


def ask_server(uri: str) -> Finding:
    """Asks a server whether it lives, by the host name that the run would use."""
    remedy = "The run would go on without it and catch up later; start the server, or correct MLFLOW_TRACKING_URI."
    # /version and /health answer whatever the host's name and without a password: only the API tells
    request = urllib.request.Request(f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/search?max_results=1")
    if user := os.environ.get("MLFLOW_TRACKING_USERNAME"):
        words = f"{user}:{os.environ.get('MLFLOW_TRACKING_PASSWORD', '')}"
        request.add_header("Authorization", f"Basic {base64.b64encode(words.encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_S):
            return Finding("ok", "mlflow", f"server {uri} answers.")
    except urllib.error.HTTPError as error:
        if error.code == 403:
            host = uri.split("://", 1)[1].split("/", 1)[0]
            remedy = f"Start it with --allowed-hosts {host},… ; do not switch the check off."
            return Finding("error", "mlflow", f"server {uri} refuses the name {host} (403).", remedy)
        if error.code == 401:
            remedy = "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
            return Finding("error", "mlflow", f"server {uri} asks for a password (401).", remedy)
        return Finding("warning", "mlflow", f"server {uri} answers with {error.code} {error.reason}.", remedy)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return Finding("warning", "mlflow", f"server {uri} does not answer ({error}).", remedy)


def existing(path: Path) -> Path:
    """Returns the nearest folder above a path, or the path, that exists."""
    return path if path.exists() else existing(path.parent)


def file_system_of(path: Path) -> str:
    """Returns the type of the file system on which a path is or would be, by the longest mount point above it."""
    target, best, kind = str(existing(path.absolute()).resolve()), "", ""
    for line in Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines():
        _, mount, system, *_ = line.split(" ")
        mount = mount.replace("\\040", " ")
        inside = target == mount or target.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, system
    return kind
