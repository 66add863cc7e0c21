"""MLflow: which store the run will use, whether it answers, and whether several runs can write to it at once."""

import base64
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from matl_scale.doctor.finding import Finding
from matl_scale.errors import first_line
from matl_scale.tracking.deletion import find_deletion
from matl_scale.tracking.mlflow_run import open_client
from matl_scale.tracking.mlflow_store import read_copy, sqlite_file, store_of, without_password
from matl_scale.train.config import Config

NETWORK_FILE_SYSTEMS = (
    "nfs", "lustre", "gpfs", "beegfs", "cifs", "smb", "fuse.", "9p", "ceph", "orangefs", "panfs", "wekafs",
)  # fmt: skip
REPLY_S = 5.0


def file_system_of(path: Path) -> str:
    """Returns the type of the file system that holds a path, or would if it existed; empty if that is unknown."""
    target = nearest_existing(path.absolute()).resolve()
    above = [each for each in psutil.disk_partitions(all=True) if target.is_relative_to(each.mountpoint)]
    # of several mounts at one point, the last hides the others
    return max(reversed(above), key=lambda each: len(each.mountpoint)).fstype if above else ""


def check_tracking(
    config: Config, *, ask: bool, file_system_of: Callable[[Path], str] = file_system_of
) -> Iterator[Finding]:
    """Checks the store of a run; if `ask`, also that a server replies."""
    if not config.track.mlflow:
        yield Finding("note", "mlflow", "off (`track.mlflow`): results are in the run's folder only.")
        return
    uri = store_of(config.run.folder)
    is_named = "://" in uri or uri.startswith("file:") or uri in ("databricks", "databricks-uc")
    kind = uri.split(":", 1)[0].split("+", 1)[0] if is_named else "file"
    if kind in ("http", "https"):
        if ask:
            reply = ask_server(uri)
            yield reply
            if reply.level == "ok":
                yield from check_copy(config, uri)
    elif kind == "sqlite":
        path = sqlite_file(uri)
        yield check_sqlite(path, file_system_of(path))
        if ask and path.is_file():
            yield from check_copy(config, uri)
    elif kind in ("postgresql", "mysql"):
        driver = check_driver(uri, kind)
        yield driver
        if ask and driver.level == "ok":
            yield from check_copy(config, uri)
    elif kind in ("databricks", "databricks-uc"):
        remedy = "Its own command line shows whether you are logged in."
        yield Finding("note", "mlflow", "Databricks: not checked.", remedy)
    else:
        remedy = "Unset MLFLOW_TRACKING_URI for SQLite beside the runs, or name a server (http://…)."
        yield Finding("error", "mlflow", f"{uri}: MLflow 3.13 and later refuse stores of plain files.", remedy)


def check_copy(config: Config, uri: str) -> Iterator[Finding]:
    """Checks that nobody deleted the run's copy, or the experiment that it goes to, in a store that can be asked."""
    try:
        found = find_deletion(open_client(uri), uri, read_copy(config.run.folder), config.track.experiment)
    except Exception as error:  # whatever a client raises
        yield Finding("note", "mlflow", f"{without_password(uri)} cannot be asked for the run: {first_line(error)}.")
        return
    if found is not None:
        way = "with `track.replace_deleted` everything is copied to a new MLflow run. Training goes on in any case."
        yield Finding("warning", "mlflow", found.text, f"{found.remedy} Or {way}")


def check_driver(uri: str, kind: str) -> Finding:
    """Checks that the Python package through which SQLAlchemy reaches a database is installed."""
    import sqlalchemy

    try:
        sqlalchemy.make_url(uri).get_dialect().import_dbapi()
    except (ModuleNotFoundError, sqlalchemy.exc.SQLAlchemyError) as error:
        remedy = (
            "Install it (psycopg2-binary for postgresql+psycopg2://…), or let an MLflow server talk to the database."
        )
        return Finding("error", "mlflow", f"{kind}: {error}.", remedy)
    return Finding("ok", "mlflow", f"{kind} database.")


def check_sqlite(path: Path, file_system: str) -> Finding:
    """Checks that a SQLite file can be written, and by several runs at once."""
    if file_system.startswith(NETWORK_FILE_SYSTEMS):
        text = f"SQLite in {path}, on a network file system ({file_system}), where several runs at once can corrupt it."
        remedy = "One run at a time, or an MLflow server with PostgreSQL (docs/guides/results.md: A server for a team)."
        return Finding("warning", "mlflow", text, remedy)
    if not os.access(nearest_existing(path), os.W_OK):
        remedy = "Choose another `run.dir`, or set MLFLOW_TRACKING_URI."
        return Finding("error", "mlflow", f"{path} cannot be written.", remedy)
    return Finding("ok", "mlflow", f"SQLite in {path} ({file_system or 'unknown file system'}).")


def ask_server(uri: str) -> Finding:
    """Asks a server for a reply, by the host name that the run would use."""
    remedy = "The run would go on without it and catch up later; start the server, or correct MLFLOW_TRACKING_URI."
    # /version and /health accept any host name and need no password: only the API tells whether the run may use it
    request = urllib.request.Request(f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/search?max_results=1")
    if user := os.environ.get("MLFLOW_TRACKING_USERNAME"):
        credentials = f"{user}:{os.environ.get('MLFLOW_TRACKING_PASSWORD', '')}"
        request.add_header("Authorization", f"Basic {base64.b64encode(credentials.encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=REPLY_S):
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


def nearest_existing(path: Path) -> Path:
    """Returns a path if it exists, or else the nearest folder above it that does."""
    return path if path.exists() else nearest_existing(path.parent)
