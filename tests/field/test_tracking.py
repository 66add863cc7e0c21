"""Copies in MLflow that were lost, wrong or somewhere else: names of tasks and folders, runs that somebody deleted."""

import contextlib
import json
import shlex
import shutil
import sqlite3
import unicodedata
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.utils.validation import _validate_length_limit, _validate_metric_name

from matl_scale.doctor.tracking import check_tracking
from matl_scale.runs.records import LocalLog, read_records, write_status
from matl_scale.tracking.metric_keys import KEY_LENGTH, MetricKeys
from matl_scale.tracking.mlflow_follower import prepare_process, sync
from matl_scale.tracking.mlflow_run import MlflowRun
from matl_scale.tracking.mlflow_store import how_to_view, sqlite_uri
from matl_scale.train.config import Config, RunConfig

# "all our Chinese attributes are one curve": names that MLflow accepts, and names that it does not
ACCEPTED = ["smiling", "a b", "café", "日本語", "가발", "straße", "5_o_Clock", "a/b", "v1.2", "x: y"]
CHANGED = [
    "笑顔?",
    "笑顔!",
    "a(x)",
    "a[x]",
    "a\\b",
    "a\nb",
    "🙂",
    "🙃",
    "..",
    ".",
    "/",
    "a//b",
    "/a",
    "a/",
    "a\u200db",
    "a|b",
]
COLLIDING = [
    "Smiling",
    "SMILING",
    "cafe",
    "CAFÉ",
    "a b ",
    "x" * 240 + "1",
    "x" * 240 + "2",
    "x" * 300,
    "x" * 301,
    "日" * 300,
]
NAMES = [*ACCEPTED, *CHANGED, *COLLIDING]


def curve(name: str, metric: str = "auroc") -> str:
    return f"task/{name}/{metric}"


def test_curves_keep_every_name_that_mlflow_accepts() -> None:
    keys = MetricKeys({})
    assert [keys[curve(name)] for name in ACCEPTED] == [curve(name) for name in ACCEPTED]
    assert keys["val/macro_auroc"] == "val/macro_auroc"
    assert keys["loss"] == "loss"


def test_curves_of_any_names_are_accepted_and_distinct() -> None:
    keys = MetricKeys({})
    found = [keys[curve(name, metric)] for name in NAMES for metric in ("balanced_accuracy", "auroc")]
    for key in found:
        _validate_metric_name(key)
        _validate_length_limit("key", KEY_LENGTH, key)
    assert len(set(found)) == len(found)
    # as a database compares that ignores case, accents and blanks at the end
    bare = {
        unicodedata.normalize("NFKD", key.casefold()).encode("ascii", "ignore").strip()
        for key in found
        if key.isascii()
    }
    assert len(bare) == sum(key.isascii() for key in found)


def test_changed_names_stay_readable_and_grouped_by_task() -> None:
    keys = MetricKeys({})
    group = keys[curve("笑顔?")].removesuffix("/auroc")
    assert group.startswith("task/笑顔_-")
    assert keys[curve("笑顔?", "balanced_accuracy")] == f"{group}/balanced_accuracy"
    decomposed = unicodedata.normalize("NFD", "café au lait")
    assert keys[curve(decomposed)].startswith("task/café au lait-")
    assert keys[curve("y" * 400)].startswith("task/" + "y" * 200)


def test_keys_do_not_depend_on_when_a_run_is_resumed() -> None:
    whole, groups = MetricKeys({}), dict[str, str]()
    expected = [whole[curve(name)] for name in NAMES]
    assert [MetricKeys(groups)[curve(name)] for name in NAMES] == expected
    assert [MetricKeys(groups)[curve(name)] for name in reversed(NAMES)] == expected[::-1]


def test_a_copy_that_an_earlier_version_began_goes_on_under_its_keys(tmp_path: Path) -> None:
    """It told case apart, and changed every name that is not ASCII."""
    log = LocalLog(tmp_path)
    log.log(1, {curve("smiling"): 0.1, curve("Smiling"): 0.2, curve("café"): 0.3})
    time = read_records(tmp_path)[0]["time"]
    (tmp_path / "mlflow.json").write_text(json.dumps({"run_id": "r", "tracking_uri": "sqlite:///x", "time": time}))
    keys = MetricKeys(MlflowRun(tmp_path, "experiment").state["keys"])
    assert [keys[curve(name)] for name in ("smiling", "Smiling", "café")] == [
        curve(name) for name in ("smiling", "Smiling", "café")
    ]


# "my run is not in the database": a folder whose name means something in a URL, in a shell or in a terminal
FOLDERS = ["two words", "a%20b", "what?now=1#top", '100% [bold]it\'s "mine"[/] é;&$HOME']


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite store with MLflow's tables, made once: MLflow takes seconds for it."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    prepare_process()
    MlflowClient(sqlite_uri(path)).search_experiments()
    return path


def write_records(folder: Path) -> Path:
    """Writes a run with two records. Returns its folder."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("track: {experiment: faces}\n")
    log = LocalLog(folder)
    for step in (1, 2):
        log.log(step, {"train/lr": 0.1, "train/loss": 1 / step})
    write_status(folder, "FINISHED")
    return folder


@pytest.mark.parametrize("name", FOLDERS)
def test_a_run_in_any_folder_has_its_store_beside_it(
    name: str, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    runs = tmp_path / name
    run = write_records(runs / "run")
    shutil.copy(empty_store, runs / "mlflow.db")
    sync(run)
    assert list(tmp_path.iterdir()) == [runs]
    assert {path.name for path in runs.iterdir()} == {"run", "mlflow.db", "mlartifacts", ".mlflow-store.lock"}
    assert (runs / "mlartifacts").is_dir()
    with contextlib.closing(sqlite3.connect(runs / "mlflow.db")) as store:
        assert store.execute("select count(*) from metrics where key = 'train/loss'").fetchone() == (2,)
    assert next(check_tracking(Config(run=RunConfig(dir=str(runs), name="run")), ask=False)).text.startswith(
        f"SQLite in {runs.resolve()}/mlflow.db"
    )
    line = how_to_view(run)
    assert line is not None
    *command, _, address = shlex.split(line.replace(", then ", " , "))
    assert command[:3] == ["mlflow", "ui", "--backend-store-uri"]
    found = MlflowClient(command[3]).get_run(address.rpartition("/")[2].partition("?")[0])
    assert found.info.run_name == "run"


def test_a_store_is_created_in_a_folder_with_an_escape_in_its_name(tmp_path: Path) -> None:
    path = tmp_path / "a%20b?c" / "mlflow.db"
    path.parent.mkdir()
    MlflowClient(sqlite_uri(path)).search_experiments()
    assert sorted(tmp_path.rglob("*")) == [path.parent, path]
