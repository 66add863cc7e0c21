"""Real servers for tests, on loopback: PostgreSQL from Debian's packages, MLflow on top of it."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.ranks import free_port

POSTGRES_PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
START_S = 180


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """Starts an empty database; yields its URI. PostgreSQL refuses to run as root, so it runs as its own user then."""
    if not POSTGRES_PROGRAMS:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    programs, as_root = POSTGRES_PROGRAMS[-1], os.geteuid() == 0
    user = ["runuser", "-u", "postgres", "--"] if as_root else []
    folder = Path(tempfile.mkdtemp(prefix="matl-postgres-"))
    if as_root:
        shutil.chown(folder, "postgres")
    port, data = free_port(), folder / "data"
    subprocess.run(
        [*user, programs / "initdb", "-D", data, "-A", "trust", "-U", "mlflow"], check=True, capture_output=True
    )
    options = f"-p {port} -c listen_addresses=127.0.0.1 -k {folder} -c fsync=off"
    control = [*user, programs / "pg_ctl", "-D", data, "-w", "-l", folder / "log"]
    subprocess.run([*control, "-o", options, "start"], check=True, capture_output=True)
    try:
        yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=True, capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


class MlflowServer:
    """An MLflow server that can be stopped and started again.

    Args:
        store: URI of its database.
        folder: For artifacts and its log.
        options: More of the command line.
    """

    def __init__(self, store: str, folder: Path, *options: str) -> None:
        self.store, self.folder, self.options, self.port = store, folder, options, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it and waits until it answers."""
        command = [
            sys.executable, "-m", "mlflow", "server", "--backend-store-uri", self.store, "--workers", "1",
            "--artifacts-destination", str(self.folder / "artifacts"), "--host", "127.0.0.1", "--port", str(self.port),
            *self.options,
        ]  # fmt: skip
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")}
        environment |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True, cwd=self.folder
            )
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(f"{self.uri}/health"):
                return
            assert self._process.poll() is None, (self.folder / "server.log").read_text()
            time.sleep(0.5)
        raise AssertionError(f"MLflow does not answer after {START_S} s")

    def kill(self) -> None:
        """Ends it at once, with its workers."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, 9)
            self._process.wait()
            self._process = None
