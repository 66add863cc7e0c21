"""Measures how long MLflow's own pages take to load in a headless Chromium."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from matl_scale.errors import InputError
from matl_scale.extras import require

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
]  # fmt: skip
START_S, PAGE_S = 180, 600


def find_chromium() -> str:
    """Returns the path of the system's Chromium.

    Raises:
        InputError: It is not installed, or Playwright is not.
    """
    require("dev", "playwright", purpose="Opening pages of MLflow")
    found = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    if found is None:
        raise InputError("Opening pages of MLflow needs Chromium (Debian: apt-get install chromium).")
    return found


def only_run(client: Any) -> Any:
    """Returns the only run of a store."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (run,) = client.search_runs(experiments)
    return run


def run_page_seconds(store: str, experiment: str, run: str, num_metrics: int, folder: Path) -> float:
    """Returns the seconds until a run's page shows how many metric keys it has, with a warm server and a full browser cache.
    Experiment and run are given by their ids; artifacts and the server's log go into `folder`."""
    chromium = find_chromium()
    from playwright.sync_api import sync_playwright

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, "--host", "127.0.0.1",
        "--port", str(port), "--workers", "1", "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("ab") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True, cwd=folder)
    try:
        wait_for(f"http://127.0.0.1:{port}/health")
        with sync_playwright() as player:
            browser = player.chromium.launch(executable_path=chromium, args=ARGUMENTS)
            page = browser.new_page()
            seconds = 0.0
            for _ in range(2):  # the first fills the cache
                page.goto("about:blank")
                start = time.perf_counter()
                page.goto(f"http://127.0.0.1:{port}/#/experiments/{experiment}/runs/{run}")
                page.get_by_text(f"Metrics ({num_metrics})").wait_for(timeout=PAGE_S * 1000)
                seconds = time.perf_counter() - start
            browser.close()
            return seconds
    finally:
        os.killpg(server.pid, 9)
        server.wait()


def wait_for(address: str) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(address):
                return
        except OSError:
            time.sleep(0.5)
    raise InputError(f"MLflow does not answer at {address} after {START_S} s.")
