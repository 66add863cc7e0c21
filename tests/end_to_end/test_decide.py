"""Decisions of a run: fitted while it trains, kept with its best network, measured on other splits, fitted for another aim."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_prep.dataset import from_arrays
from data_prep.planning.make_plan import Options
from data_prep.shard_set import write_shard_set
from helpers.run_configs import build_config, records
from helpers.shard_sets import ShardSet, small_dataset
from matl_scale.commands.decide import main as matl_decide
from matl_scale.commands.evaluate import main as matl_evaluate
from matl_scale.data.images.array_images import ArrayImages
from matl_scale.data.loading.config import DataConfig
from matl_scale.decisions.config import DecideConfig
from matl_scale.decisions.fit import measure_decisions
from matl_scale.errors import InputError
from matl_scale.runs.checkpoints.decisions import open_decisions
from matl_scale.runs.checkpoints.network import open_network
from matl_scale.runs.decided import find_kept_predictions, score_samples
from matl_scale.runs.history import RunHistory
from matl_scale.runs.layout import RunFolder
from matl_scale.train.config import Config
from matl_scale.train.evaluation import EvalConfig
from matl_scale.train.process_group import build_accelerator
from matl_scale.train.run import train
from matl_scale.train.schedule import CheckpointConfig
from matl_scale.train.step.train_step import TrainConfig

DECIDED = ("decided_balanced_accuracy", "decided_f1", "ece", "brier")


def decide(*words: object) -> int:
    return matl_decide(list(map(str, words)))


@pytest.fixture(scope="module")
def trained(small_set: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A run whose best network is not its last one, evaluated on the training split too."""
    config = build_config(
        tmp_path_factory.mktemp("runs"),
        small_set,
        "run",
        train=TrainConfig(steps=6, precision="fp32"),
        eval=EvalConfig(every=2, batch_size=7),
        checkpoint=CheckpointConfig(every=100, best="macro_decided_balanced_accuracy"),
    )
    train(config, build_accelerator("fp32"))
    best = RunFolder(config.run.folder).best_folder
    assert [folder.name for folder in best.iterdir()] != ["step-000000006"], (
        "another seed: the last network is the best"
    )
    assert matl_evaluate(["--run", str(config.run.folder), "--split", "train"]) == 0
    return config


@pytest.fixture
def run(trained: Config, tmp_path: Path) -> Path:
    """A copy of its folder."""
    return shutil.copytree(trained.run.folder, tmp_path / "run")


def test_every_evaluation_has_figures_of_decisions(trained: Config) -> None:
    history = RunHistory(trained.run.folder)
    for name in DECIDED:
        assert np.isfinite(history.over_time("val", name).values).all(), name
    evaluations = [record for record in records(trained) if "val/tasks_not_learned" in record]
    assert len(evaluations) == 3
    for record in evaluations:
        assert 0 <= record["val/macro_decided_balanced_accuracy"] <= 1
        assert 0 <= record["val/macro_ece"] <= 1


def test_the_best_network_has_the_decisions_that_its_predictions_give(run: Path, trained: Config) -> None:
    network = open_network(run)
    assert network.score == max(
        record["val/macro_decided_balanced_accuracy"] for record in records(trained) if "val/macro_ece" in record
    )
    decisions = open_decisions(network)
    assert (decisions.info.split, decisions.info.step) == ("val", network.step)
    before = (network.folder / "decisions.parquet").read_bytes()
    assert decide(run) == 0  # from predictions that were kept of the best network
    assert (network.folder / "decisions.parquet").read_bytes() == before


def test_another_split_is_measured_with_the_rules_as_they_are(run: Path) -> None:
    network = open_network(run)
    rules = list(open_decisions(network).rules.values())
    measured = measure_decisions(score_samples(find_kept_predictions(run, "train", network.sha256)), rules)
    latest = RunHistory(run).latest("train")
    assert latest.step == network.step
    for name in DECIDED:
        np.testing.assert_array_equal(latest.metrics.values[name], measured[name])


def test_the_split_of_the_fit_is_cross_fitted_when_it_is_evaluated_again(run: Path) -> None:
    network = open_network(run)
    history = RunHistory(run).over_time("val", "decided_balanced_accuracy")
    recorded = history.values[:, history.steps.index(network.step)]
    assert matl_evaluate(["--run", str(run), "--split", "val"]) == 0
    latest = RunHistory(run).latest("val")
    np.testing.assert_allclose(latest.metrics.values["decided_balanced_accuracy"], recorded)


def test_another_aim_changes_decisions_and_figures_but_no_prediction(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network, before = open_network(run), RunHistory(run).latest("train").metrics.values
    files = [path.read_bytes() for path in sorted(run.glob("*predictions-*.parquet"))]
    assert decide(run, "--aim", "recall=0.9") == 0
    printed = capsys.readouterr().out
    assert "tasks decided for recall=0.9" in printed
    lines = [line.rpartition(": ") for line in printed.splitlines() if line.startswith("figures that ")]
    named = {split: "follow" in start for start, _, splits in lines for split in splits.split(", ")}
    assert named == {split: RunHistory(run).latest(split).step == network.step for split in RunHistory(run).steps}
    assert named["train"]
    decisions = open_decisions(network)
    assert set(decisions.aims.values()) == {"recall=0.9"}
    after = RunHistory(run).latest("train").metrics.values
    assert (after["decided_recall"] != before["decided_recall"]).any()
    np.testing.assert_array_equal(after["balanced_accuracy"], before["balanced_accuracy"])
    assert [path.read_bytes() for path in sorted(run.glob("*predictions-*.parquet"))] == files
    assert json.loads((run / "status.json").read_text()) == {"status": "FINISHED"}


def test_aims_by_pattern_come_from_the_config(small_set: ShardSet, tmp_path: Path) -> None:
    config = build_config(
        tmp_path,
        small_set,
        "run",
        train=TrainConfig(steps=1, precision="fp32"),
        decide=DecideConfig(aim={"*": "f1", "task_0": "accuracy"}),
    )
    train(config, build_accelerator("fp32"))
    assert list(open_decisions(open_network(config.run.folder)).aims.values()) == ["accuracy", *["f1"] * 5]
    wrong = replace(config, run=replace(config.run, name="other"), decide=DecideConfig(aim={"tusk_*": "f1"}))
    with pytest.raises(InputError, match=r"`decide.aim` should match names of tasks. `tusk_\*` matches none"):
        train(wrong, build_accelerator("fp32"))


@pytest.mark.parametrize("label", [-1, 0])
def test_a_split_on_which_no_task_can_be_fitted(label: int, tmp_path: Path) -> None:
    dataset, pixels = small_dataset()
    (chunk,) = dataset.chunks()
    labels = chunk.labels.copy()
    labels[[split == "val" for split in chunk.splits]] = label
    images = ArrayImages(root="memory", pixels=pixels)
    changed = from_arrays(
        tasks=dataset.tasks, names=chunk.names, labels=labels, splits=list(chunk.splits), images=images
    )
    manifest = write_shard_set(lambda _: changed, tmp_path / "shards", Options())
    assert manifest is not None
    shards = ShardSet(root=tmp_path / "shards", manifest=manifest, pixels=pixels, labels=labels)
    config = build_config(
        tmp_path,
        shards,
        "run",
        train=TrainConfig(steps=2, precision="fp32"),
        eval=EvalConfig(every=1, batch_size=7),
    )
    train(config, build_accelerator("fp32"))
    network = open_network(config.run.folder)
    assert network.score is None
    notes = set(open_decisions(network).notes().values())
    assert notes == {"not fitted: no labelled sample" if label < 0 else "not fitted: only class `class_0` occurs"}
    assert decide(config.run.folder) == 0


def test_a_prior_that_was_trained_is_corrected_everywhere(small_set: ShardSet, tmp_path: Path) -> None:
    config = build_config(
        tmp_path,
        small_set,
        "run",
        data=DataConfig(path=str(small_set.root), batch_size=6, workers=0, balance=1.0, tasks=["task_0", "task_2"]),
        train=TrainConfig(steps=1, precision="fp32"),
    )
    config = replace(config, routing=replace(config.routing, routes="task"))
    train(config, build_accelerator("fp32"))
    network = open_network(config.run.folder)
    labels = small_set.manifest.labels()[small_set.manifest.sample_ids("train")]
    rules = open_decisions(network).rules
    (network.folder / "decisions.parquet").unlink()
    unfitted = open_decisions(network).rules
    for name, column in (("task_0", 0), ("task_2", 2)):
        own = labels[:, column]
        counts = np.bincount(own[own >= 0])
        expected = np.log(counts / counts.sum()) - np.log(1 / len(counts))  # each class was drawn equally often
        for rule in (rules[name], unfitted[name]):
            offsets = rule.prior_offsets
            np.testing.assert_allclose(offsets - offsets[0], expected - expected[0], atol=1e-6)


def test_aims_by_pattern_from_the_command_line(run: Path) -> None:
    assert decide(run, "--aim", '{"*": f1, "task_0": recall=0.8}') == 0
    assert list(open_decisions(open_network(run)).aims.values()) == ["recall=0.8", *["f1"] * 5]


def test_decisions_of_another_checkpoint_leave_the_figures_alone(run: Path) -> None:
    newest = open_network(run, "newest")
    assert matl_evaluate(["--run", str(run), "--checkpoint", "newest"]) == 0
    before = pq.read_table(run / "per_task.parquet")
    assert decide(run, "--aim", "recall=0.9", "--checkpoint", "newest") == 0
    assert set(open_decisions(newest).aims.values()) == {"recall=0.9"}
    assert pq.read_table(run / "per_task.parquet").equals(before)


@pytest.mark.parametrize("last_is_best", [True, False])
def test_predictions_of_the_best_network_are_kept_once(small_set: ShardSet, tmp_path: Path, last_is_best: bool) -> None:
    config = build_config(
        tmp_path,
        small_set,
        "run",
        train=TrainConfig(steps=4, precision="fp32"),
        eval=EvalConfig(every=0 if last_is_best else 1, batch_size=7),
    )
    train(config, build_accelerator("fp32"))
    files = RunFolder(config.run.folder)
    network = open_network(config.run.folder)
    found = find_kept_predictions(config.run.folder, "val", network.sha256)
    assert found.info.step == network.step
    assert files.best_predictions_file("val").exists() == (network.step != 4)
    assert files.predictions_file("val").exists()


@pytest.mark.parametrize("case", ["aim", "split", "run", "predictions", "old", "checkpoint", "network"])
def test_bad_input_is_one_line(case: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = open_network(run)
    table = network.folder / "decisions.parquet"
    before = table.read_bytes()
    arguments: list[object] = [run]
    if case == "aim":
        arguments, expected = (
            [run, "--aim", "balanced"],
            "`decide.aim` should be one of balanced_accuracy, f1, accuracy",
        )
    elif case == "split":
        arguments += ["--split", "tset"]
        expected = "has kept no predictions of this network for split `tset`. Evaluate it: matl-evaluate"
    elif case == "run":
        arguments, expected = [run.parent], "is not a run: it has no config.yaml"
    elif case == "checkpoint":
        other = shutil.copytree(network.folder, run.parent / "elsewhere")
        arguments += ["--checkpoint", str(other)]
        expected = f"--checkpoint should be one of {run}: decisions are fitted on what the run itself has predicted"
    elif case == "predictions":
        RunFolder(run).best_predictions_file("val").unlink()
        expected = "has kept no predictions of this network for split `val`"
    elif case == "old":
        shutil.copy(Path(__file__).parents[1] / "data/old/runs/old/predictions-val.parquet", run)
        arguments += ["--checkpoint", str(network.folder)]
        expected = "has kept no predictions of this network for split `val`"
        RunFolder(run).best_predictions_file("val").unlink()
    else:
        found = pq.read_table(table)
        about = json.loads(found.schema.metadata[b"matl_scale"]) | {"network": "of another run"}
        pq.write_table(found.replace_schema_metadata({"matl_scale": json.dumps(about)}), table)
        with pytest.raises(SystemExit, match="2"):
            matl_evaluate(["--run", str(run), "--split", "val"])
        message = capsys.readouterr().err.strip().splitlines()[-1]
        assert "has the decisions of another network, of step" in message
        assert decide(run) == 0  # fits them again
        assert table.read_bytes() == before
        return
    with pytest.raises(SystemExit, match="2"):
        decide(*arguments)
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("matl-decide: error: ")
    assert expected in message
    assert table.read_bytes() == before
