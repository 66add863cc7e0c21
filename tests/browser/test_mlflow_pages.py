"""What a person sees of a run in MLflow's own UI: its description, and the per-task table, which can be sorted."""

from collections.abc import Iterator
from typing import Any

import pytest

from helpers.made_up_runs import MadeUp, write_run
from helpers.servers import MlflowServer
from matl_scale.tracking.mlflow_run import MlflowRun
from matl_scale.tracking.mlflow_store import how_to_view

pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore"),
]  # mlflow and what it imports warn about each other
NUM_TASKS = 30
WAIT_MS = 60_000
SORTED_MS = 3000


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a made-up run's page, as `train.py` prints it, on a server that shows it."""
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "made-up", MadeUp(num_tasks=NUM_TASKS, num_samples=200))
    run = MlflowRun(folder / "made-up", "matl_scale", f"sqlite:///{folder}/mlflow.db")
    run.copy_new(everything=True)
    run.finish("FINISHED")
    printed = how_to_view(folder / "made-up")
    assert printed is not None
    server = MlflowServer(f"sqlite:///{folder}/mlflow.db", folder)
    server.start()
    yield printed.split(", then ")[1].replace("http://127.0.0.1:5000", server.uri)
    server.kill()


def open_page(browser: Any, address: str) -> Any:
    page = browser.new_page(viewport={"width": 1600, "height": 1200})
    page.set_default_timeout(WAIT_MS)
    page.goto(address)
    return page


def test_the_run_page_begins_with_how_the_tasks_fare(browser: Any, address: str) -> None:
    page = open_page(browser, address)
    page.get_by_text(f"{NUM_TASKS} tasks,").first.wait_for()
    page.get_by_text("Worst by balanced accuracy").wait_for()
    page.get_by_text("worst_task").first.wait_for()
    assert "workflowType=machine_learning" in page.url
    page.close()


def test_the_per_task_table_has_a_row_per_task_and_sorts(browser: Any, address: str) -> None:
    page = open_page(browser, address.replace("?", "/artifacts?"))
    page.get_by_text("per_task.json").click()
    head = page.get_by_role("button", name="auroc", exact=True)
    head.wait_for()

    def shown() -> list[float]:
        """Returns the third column of the rows that are shown, undefined values left out."""
        cells = [row.get_by_role("cell").nth(2).inner_text() for row in page.get_by_role("row").all()[1:]]
        return [float(cell) for cell in cells if cell.strip()]

    assert shown() != sorted(shown())
    for descending in (False, True):
        head.click()
        page.wait_for_timeout(SORTED_MS)
        values = shown()
        assert len(values) >= 18
        assert values == sorted(values, reverse=descending)
    page.close()
