"""A run whose evaluations no longer improve ends early, and is complete then; interrupted anywhere, it ends at the same step."""

import math
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.run_configs import assert_identical, build_config, records, saved_state
from helpers.shard_sets import ShardSet
from matl_scale.errors import InputError
from matl_scale.models.config import ModelConfig
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.runs.checkpoints.network import open_network
from matl_scale.runs.decided import find_kept_predictions
from matl_scale.runs.history import RunHistory
from matl_scale.runs.layout import RunFolder
from matl_scale.runs.records import read_status
from matl_scale.tracking.recorder import TrackConfig
from matl_scale.train.config import Config
from matl_scale.train.evaluation import EvalConfig
from matl_scale.train.loop import Hooks, Run
from matl_scale.train.patience import Patience
from matl_scale.train.process_group import build_accelerator
from matl_scale.train.run import train
from matl_scale.train.schedule import CheckpointConfig
from matl_scale.train.step.optim import OptimConfig
from matl_scale.train.step.train_step import TrainConfig


def test_what_counts_as_an_improvement() -> None:
    patience = Patience(limit=3)
    waited = []
    for step, value in enumerate([math.nan, 0.5, 0.5, math.nan, 0.6, 0.1, 0.59, 0.6], start=1):
        assert not patience.is_over()
        patience.note(step, value)
        waited.append(patience.waited)
    assert waited == [1, 0, 1, 2, 0, 1, 2, 3]
    assert (patience.best, patience.best_step, patience.is_over()) == (0.6, 5, True)
    assert not replace(patience, limit=0).is_over()


def test_what_another_summary_found_does_not_count() -> None:
    saved = Patience(limit=3, yardstick="('val', 'macro_auroc', 0)", best=0.9, best_step=4, last_step=9, waited=2)
    same, other = (Patience(limit=2, yardstick=text) for text in (saved.yardstick, "('val', 'macro_auroc', 20)"))
    for patience in (same, other):
        patience.load_state_dict(saved.state_dict())
    assert same == replace(saved, limit=2)
    assert same.is_over()
    assert other == Patience(limit=2, yardstick="('val', 'macro_auroc', 20)")
    older = Patience(limit=2, yardstick=saved.yardstick)
    older.load_state_dict(replace(saved, yardstick="").state_dict())
    assert older == replace(saved, limit=2), "what a version without yardsticks counted"


@pytest.mark.parametrize(
    ("sections", "needed"),
    [
        ({"eval": EvalConfig(every=0)}, r"evaluations: set `eval\.every`, which is 0"),
        ({"checkpoint": CheckpointConfig(best="")}, r"a summary .*: set `checkpoint\.best`, which is empty"),
    ],
)
def test_patience_needs_evaluations_and_a_summary(sections: dict[str, object], needed: str) -> None:
    with pytest.raises(InputError, match=rf"`train\.patience` = 2 needs {needed}.*; or set it to 0\."):
        Config(train=TrainConfig(patience=2), **sections)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"`train\.patience` should be at least 0\. Got -1"):
        TrainConfig(patience=-1)


def constant_run(folder: Path, shards: ShardSet, name: str) -> Config:
    """A run that changes nothing, so that its first evaluation, after step 2, is the best one."""
    return build_config(
        folder,
        shards,
        name,
        model=ModelConfig(name="resnet18", width=0.0625, stem="small", freeze=["*"]),
        routing=RoutingConfig(sigma=1.0, routes="one"),
        train=TrainConfig(steps=20, precision="fp32", patience=2),
        optim=OptimConfig(name="sgd", lr=0.0),
        eval=EvalConfig(every=2, batch_size=64, predictions=True),
        checkpoint=CheckpointConfig(every=4, best="macro_auroc"),
        track=TrackConfig(mlflow=False, every=5),
    )


@pytest.fixture(scope="module")
def whole(small_set: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Config:
    config = constant_run(tmp_path_factory.mktemp("runs"), small_set, "whole")
    outcome = train(config, build_accelerator("fp32"))
    assert (outcome.step, outcome.stopped, read_status(config.run.folder)) == (6, False, "FINISHED")
    return config


def test_a_run_without_improvement_ends_early(whole: Config, capsys: pytest.CaptureFixture[str]) -> None:
    history = RunHistory(whole.run.folder)
    assert history.steps["val"] == [2, 4, 6]
    assert [record["step"] for record in records(whole) if "train/lr" in record] == [5, 6]
    assert history.predictions("val").info.step == 6
    assert RunFolder(whole.run.folder).best_predictions_file("val").is_file(), "of step 2"
    assert train(whole, build_accelerator("fp32")).step == 6
    assert "is complete: 6 of 20 steps, it ended early by `train.patience`" in capsys.readouterr().err


def test_an_interrupted_run_ends_at_the_same_step(
    whole: Config, small_set: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is stopped in its second evaluation, killed when it has made that again, and stopped in its last one."""
    broken, accelerator = constant_run(tmp_path, small_set, "broken"), build_accelerator("fp32")

    def stop(run: Run) -> None:
        if run.state.step in (4, 6) and run.first_step < run.state.step:
            os.kill(os.getpid(), signal.SIGTERM)

    def kill(_: Run) -> None:
        raise KeyboardInterrupt

    assert train(broken, accelerator, hooks=Hooks(before_evaluation=stop)).step == 4
    with pytest.raises(KeyboardInterrupt):
        train(broken, accelerator, hooks=Hooks(before_step=kill))
    outcome = train(broken, accelerator, hooks=Hooks(before_evaluation=stop))
    assert (outcome.step, outcome.stopped) == (6, True)
    outcome = train(broken, accelerator)
    assert (outcome.step, outcome.stopped) == (6, False)
    said = capsys.readouterr().err
    assert (
        "ends early after step 6: val/macro_auroc has not improved in 2 evaluations (`train.patience`); it was best after "
        f"step 2, {open_network(whole.run.folder).score:.4f}"
    ) in said
    assert [record for record in records(whole) if "train/lr" not in record] == [
        record for record in records(broken) if "train/lr" not in record
    ]
    before, after = saved_state(whole), saved_state(broken)
    assert_identical(before["model"], after["model"])
    train(broken, accelerator)
    assert "is complete: 6 of 20 steps" in capsys.readouterr().err, "its last evaluation is not made again"
    longer = replace(broken, train=replace(broken.train, patience=3))
    assert train(longer, accelerator).step == 8, "with more patience it goes on"


def test_a_repeated_last_evaluation_keeps_the_predictions_of_the_best_network(
    small_set: ShardSet, tmp_path: Path
) -> None:
    """It is the best one; the run is stopped in it, and killed when it has made it again, before that is saved."""
    config, accelerator = constant_run(tmp_path, small_set, "short"), build_accelerator("fp32")
    config = replace(config, train=replace(config.train, steps=2))

    def stop(_: Run) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    assert train(config, accelerator, hooks=Hooks(before_evaluation=stop)).stopped
    with pytest.raises(KeyboardInterrupt):
        train(config, accelerator, hooks=Hooks(after_evaluation=kill))
    assert not train(config, accelerator).stopped
    best = open_network(config.run.folder)
    assert RunHistory(config.run.folder).predictions("val").info.network == best.sha256


def test_a_run_that_goes_on_keeps_the_predictions_of_its_best_network(small_set: ShardSet, tmp_path: Path) -> None:
    """The first evaluation is the best, and was the last one of a shorter run."""
    config, accelerator = constant_run(tmp_path, small_set, "longer"), build_accelerator("fp32")
    for steps in (2, 4):
        train(replace(config, train=replace(config.train, steps=steps)), accelerator)
    best = open_network(config.run.folder)
    assert (best.step, RunHistory(config.run.folder).predictions("val").info.step) == (2, 4)
    assert find_kept_predictions(config.run.folder, "val", best.sha256).info.step == 2
