"""Copies in MLflow that were lost, wrong or somewhere else: names of tasks and folders, runs that somebody deleted."""

import contextlib
import json
import os
import re
import shlex
import shutil
import sqlite3
import time
import unicodedata
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.utils.validation import _validate_length_limit, _validate_metric_name

from helpers.decision_rules import give_decisions
from matl_scale.doctor.tracking import check_tracking
from matl_scale.runs.layout import RunFolder
from matl_scale.runs.records import LocalLog, read_records, write_status
from matl_scale.storage.files import file_sha256, write_json
from matl_scale.tracking.metric_keys import KEY_LENGTH, MetricKeys
from matl_scale.tracking.mlflow_follower import GAVE_UP, GIVE_UP_S, attempt, follow, prepare_process, sync
from matl_scale.tracking.mlflow_run import MlflowRun
from matl_scale.tracking.mlflow_store import how_to_view, read_copy, sqlite_uri
from matl_scale.tracking.recorder import TrackConfig
from matl_scale.tracking.sync import main as sync_command
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
    copied = read_records(tmp_path)[0]["time"]
    (tmp_path / "mlflow.json").write_text(json.dumps({"run_id": "r", "tracking_uri": "sqlite:///x", "time": copied}))
    keys = MetricKeys(MlflowRun(tmp_path, "experiment").state["keys"])
    assert [keys[curve(name)] for name in ("smiling", "Smiling", "café")] == [
        curve(name) for name in ("smiling", "Smiling", "café")
    ]


# "my run is not in the database": a folder whose name means something in a URL, in a shell or in a terminal
FOLDERS = ["two words", "a%20b", "what?now=1#top", '100% [bold]it\'s "mine" é;&$HOME']


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


# "start the server and call this again", although the server runs: somebody tidied up in MLflow's pages


@pytest.fixture
def copied(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, MlflowClient]:
    """A run that was copied to a store, and a client of that store."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = write_records(tmp_path / "my runs" / "run")
    shutil.copy(empty_store, run.parent / "mlflow.db")
    sync(run)
    return run, MlflowClient(sqlite_uri(run.parent / "mlflow.db"))


def mlflow_ids(run: Path) -> tuple[str, str]:
    copy = read_copy(run)
    return copy["run_id"], copy["experiment_id"]


def restore(text: str) -> list[str]:
    """Returns the words of the command in a message that restores something."""
    found = re.search("Restore it: `(.*?)`", text)
    assert found
    return shlex.split(found[1])


def check_doctor(run: Path) -> list[str]:
    config = Config(run=RunConfig(dir=str(run.parent), name=run.name), track=TrackConfig(experiment="faces"))
    return [finding.line() for finding in check_tracking(config, ask=True) if finding.level == "warning"]


@pytest.mark.parametrize("kind", ["run", "experiment"])
def test_a_deleted_copy_is_named_with_the_command_that_restores_it(
    copied: tuple[Path, MlflowClient], kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run, client = copied
    run_id, experiment_id = mlflow_ids(run)
    assert check_doctor(run) == []
    delete = client.delete_run if kind == "run" else client.delete_experiment
    delete(run_id if kind == "run" else experiment_id)
    with pytest.raises(SystemExit) as ended:
        sync_command([str(run)])
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert f"MLflow run {run_id} was deleted" in said or f"`faces` ({experiment_id}) was deleted" in said
    assert "start the server" not in said
    (warning,) = check_doctor(run)
    assert restore(warning) == restore(said)
    uri, *command = restore(said)
    assert MlflowClient(uri.removeprefix("MLFLOW_TRACKING_URI=")).get_run(run_id).info.lifecycle_stage == "deleted"
    expected = {
        "run": ["runs", "restore", "--run-id", run_id],
        "experiment": ["experiments", "restore", "--experiment-id"],
    }
    assert command[1 : 1 + len(expected[kind])] == expected[kind]
    (client.restore_run if kind == "run" else client.restore_experiment)(command[-1])
    LocalLog(run).log(3, {"train/lr": 0.1, "train/loss": 0.3})
    assert sync(run).startswith("complete")
    assert [point.step for point in client.get_metric_history(run_id, "train/loss")] == [1, 2, 3]
    assert check_doctor(run) == []


@pytest.mark.parametrize("kind", ["run", "experiment"])
def test_everything_is_copied_to_a_new_run_if_asked_to(copied: tuple[Path, MlflowClient], kind: str) -> None:
    run, client = copied
    run_id, experiment_id = mlflow_ids(run)
    (client.delete_run if kind == "run" else client.delete_experiment)(run_id if kind == "run" else experiment_id)
    assert sync(run, replace_deleted=True).startswith("complete")
    new_id, new_experiment = mlflow_ids(run)
    assert new_id != run_id
    assert client.get_experiment(new_experiment).name == ("faces" if kind == "run" else "faces 2")
    assert [point.step for point in client.get_metric_history(new_id, "train/loss")] == [1, 2]
    assert client.get_run(new_id).info.status == "FINISHED"
    assert sync(run, replace_deleted=True).startswith("nothing was missing")
    assert mlflow_ids(run) == (new_id, new_experiment)


def test_a_copy_that_is_gone_for_good_is_not_waited_for(
    copied: tuple[Path, MlflowClient], empty_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`mlflow gc`, or the file of the store was replaced."""
    run, _ = copied
    run_id, _ = mlflow_ids(run)
    shutil.copy(empty_store, run.parent / "mlflow.db")
    reading, writing = os.pipe()
    os.close(writing)  # the training has ended
    begun = time.monotonic()
    assert follow(MlflowRun(run, "faces"), reading) == GAVE_UP
    os.close(reading)
    assert time.monotonic() - begun < GIVE_UP_S / 2
    said = capsys.readouterr().err
    assert f"MLflow run {run_id} is no longer in sqlite:///" in said
    assert f"matl-sync --replace-deleted '{run}'" in said
    assert sync(run, replace_deleted=True).startswith("complete")


@pytest.mark.parametrize("replace_deleted", [False, True])
def test_a_run_whose_copy_is_deleted_meanwhile_goes_on(
    copied: tuple[Path, MlflowClient], replace_deleted: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    run, client = copied
    run_id, _ = mlflow_ids(run)
    following = MlflowRun(run, "faces", replace_deleted=replace_deleted)
    log = LocalLog(run)
    log.log(3, {"train/lr": 0.1, "train/loss": 0.3})
    assert attempt(following, following.copy_new, quiet=False)
    client.delete_run(run_id)
    log.log(4, {"train/lr": 0.1, "train/loss": 0.2})
    assert not attempt(following, following.copy_new, quiet=False)
    assert f"MLflow run {run_id} was deleted" in capsys.readouterr().err
    if not replace_deleted:
        client.restore_run(run_id)
    assert attempt(following, following.copy_new, quiet=True)
    assert (f"MLflow run {run_id} was deleted" in capsys.readouterr().err) == replace_deleted
    assert (mlflow_ids(run)[0] == run_id) != replace_deleted
    steps = [point.step for point in client.get_metric_history(mlflow_ids(run)[0], "train/loss")]
    assert steps == [1, 2, 3, 4]


@pytest.mark.filterwarnings("ignore")  # MLflow warns that type hints are missing; the signature replaces them
def test_the_best_network_is_logged_from_any_folder(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths of artifacts are URLs too, by MLflow's reading."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    runs = tmp_path / "a%20b?c#d"
    shutil.copytree(Path(__file__).parents[1] / "data/old/runs/old", runs / "old")
    shutil.copy(empty_store, runs / "mlflow.db")
    write_status(runs / "old", "FINISHED")
    assert "FINISHED" in sync(runs / "old")
    (model,) = (runs / "mlartifacts").rglob("MLmodel")
    assert len(list(model.parent.rglob("state.pt"))) == 1


@pytest.mark.filterwarnings("ignore")
def test_a_network_is_logged_again_with_new_decisions(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`matl-decide` changes a file of a model that was logged; copies of earlier versions know nothing of decisions."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = Path(shutil.copytree(Path(__file__).parents[1] / "data/old/runs/old", tmp_path / "old"))
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    write_status(run, "FINISHED")
    sync(run)
    state = read_copy(run)
    del state["model_decisions"], state["begun_decisions"]  # as an earlier version wrote it
    write_json(RunFolder(run).mlflow_file, state)
    assert sync(run).startswith("nothing was missing")
    (network,) = (run / "best").glob("step-*")
    for seed in (1, 2, 2):
        give_decisions(network, seed)
        complete = sync(run).startswith("complete")
    assert not complete, "the third decisions are those of the second"
    models = [path.parent for path in (tmp_path / "mlartifacts").rglob("MLmodel")]
    assert len(models) == 3
    logged = [path.read_bytes() for model in models for path in model.rglob("decisions.parquet")]
    assert len(set(logged)) == len(logged) == 2
    assert read_copy(run)["model_decisions"] == file_sha256(network / "decisions.parquet")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("chosen", [False, True])
def test_runs_of_several_folders_are_copied_to_their_own_stores(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch, chosen: bool
) -> None:
    """`matl-sync a/run b/run`: the second copy was in the store of the first, as soon as that had logged a model."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if chosen:
        shutil.copy(empty_store, tmp_path / "chosen.db")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_uri(tmp_path / "chosen.db"))
    runs = [tmp_path / name / "old" for name in ("a", "b")]
    for run in runs:
        shutil.copytree(Path(__file__).parents[1] / "data/old/runs/old", run)
        shutil.copy(empty_store, run.parent / "mlflow.db")
        write_status(run, "FINISHED")
    assert sync_command([str(run) for run in runs]) == 0
    stores = [tmp_path / "chosen.db"] * 2 if chosen else [run.parent / "mlflow.db" for run in runs]
    assert [read_copy(run)["tracking_uri"] for run in runs] == list(map(sqlite_uri, stores))
    assert "model_step" in read_copy(runs[0])
