"""The network of the best evaluation stays, whatever is pruned, and can be used without its run or its shard set."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.run_configs import build_config, records
from helpers.shard_sets import ShardSet
from matl_scale.errors import InputError
from matl_scale.runs.checkpoints.checkpoint import checkpoint_folders, read_info
from matl_scale.runs.checkpoints.network import open_network, restore_network
from matl_scale.runs.history import RunHistory
from matl_scale.runs.layout import RunFolder
from matl_scale.train.config import RunConfig
from matl_scale.train.evaluation import EvalConfig
from matl_scale.train.process_group import build_accelerator
from matl_scale.train.resume.open_run import find_checkpoint
from matl_scale.train.run import train
from matl_scale.train.schedule import CheckpointConfig
from matl_scale.train.step.optim import OptimConfig
from matl_scale.train.step.train_step import TrainConfig


def test_the_best_network_stays_and_stands_alone(small_set: ShardSet, tmp_path: Path) -> None:
    config = build_config(
        tmp_path,
        small_set,
        "run",
        train=TrainConfig(steps=10, precision="fp32", ema_decay=0.5),
        eval=EvalConfig(every=2, batch_size=7),
        checkpoint=CheckpointConfig(every=5, keep=1, best="macro_auroc"),
    )
    train(config, build_accelerator("fp32"))
    scores = {r["step"]: r["val/macro_auroc"] for r in records(config) if "val/macro_auroc" in r}
    expected = max(scores, key=lambda step: (scores[step], -step))
    kept = checkpoint_folders(config.run.folder / "best")
    assert [read_info(folder).step for folder in kept] == [expected]
    found = open_network(config.run.folder)
    assert (found.step, found.score) == (expected, scores[expected])
    assert open_network(config.run.folder, "newest").step == 10

    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    before = restore_network(found, torch.device("cpu"))
    moved = shutil.copytree(found.folder, tmp_path / "elsewhere")
    shutil.rmtree(config.run.folder)
    alone = open_network(moved)
    after = restore_network(alone, torch.device("cpu"))
    assert list(alone.classes) == list(small_set.manifest.task_names)
    for task_id in range(6):
        assert torch.equal(before(images, task_id), after(images, task_id))


def test_the_best_network_is_chosen_by_tasks_with_enough_samples(small_set: ShardSet, tmp_path: Path) -> None:
    labels, tasks = small_set.manifest.labels()[small_set.manifest.sample_ids("val")], small_set.manifest.tasks
    smallest = np.array(
        [np.bincount(x[x >= 0], minlength=t.num_classes).min() for x, t in zip(labels.T, tasks, strict=True)]
    )
    limit = int(np.sort(smallest)[len(tasks) // 2])
    assert 0 < (smallest >= limit).sum() < len(tasks)
    config = build_config(
        tmp_path,
        small_set,
        "run",
        train=TrainConfig(steps=6, precision="fp32"),
        eval=EvalConfig(every=2, batch_size=7, min_count=limit),
        checkpoint=CheckpointConfig(every=5, keep=1, best="macro_balanced_accuracy"),
    )
    train(config, build_accelerator("fp32"))
    history = RunHistory(config.run.folder)
    values = history.over_time("val", "balanced_accuracy").of_tasks([task.name for task in tasks]).values
    evaluations = {r["step"]: r for r in records(config) if "val/tasks_in_means" in r}
    means = dict(zip(evaluations, values[smallest >= limit].mean(axis=0).tolist(), strict=True))
    for step, record in evaluations.items():
        assert record["val/macro_balanced_accuracy"] == pytest.approx(means[step])
        assert record["val/tasks_in_means"] == (smallest >= limit).sum()
    assert open_network(config.run.folder).score == pytest.approx(max(means.values()))
    latest = history.latest("val").metrics
    assert latest.min_count == limit
    assert latest.values["smallest_class"].tolist() == smallest.tolist()


def test_scores_over_other_tasks_are_not_compared(small_set: ShardSet, tmp_path: Path) -> None:
    # nothing is learned, so that without another limit the first evaluation stays the best one
    config = build_config(
        tmp_path,
        small_set,
        "run",
        optim=OptimConfig(lr=1e-12, weight_decay=0.0),
        train=TrainConfig(steps=4, precision="fp32"),
        eval=EvalConfig(every=2, batch_size=7),
        checkpoint=CheckpointConfig(every=2, keep=1, best="macro_balanced_accuracy"),
    )
    train(config, build_accelerator("fp32"))
    longer = replace(config, train=replace(config.train, steps=6))
    before = open_network(config.run.folder).step
    train(replace(longer, eval=replace(config.eval, min_count=1)), build_accelerator("fp32"))
    assert before == 2
    assert open_network(config.run.folder).step == 6


def test_a_run_that_goes_back_has_no_best_network_of_later_steps(small_set: ShardSet, tmp_path: Path) -> None:
    config = build_config(
        tmp_path,
        small_set,
        "run",
        train=TrainConfig(steps=6, precision="fp32"),
        eval=EvalConfig(every=2, batch_size=7),
        checkpoint=CheckpointConfig(every=3, keep=2),
    )
    train(config, build_accelerator("fp32"))
    state = (open_network(config.run.folder).folder / "state.pt").read_bytes()
    shutil.rmtree(config.run.folder / "checkpoints/step-000000006")
    (config.run.folder / "best/step-000000099").mkdir()
    train(config, build_accelerator("fp32"))
    assert (open_network(config.run.folder).folder / "state.pt").read_bytes() == state


def test_what_is_not_there_is_one_line(small_set: ShardSet, tmp_path: Path) -> None:
    config = build_config(tmp_path, small_set, "run", train=TrainConfig(steps=2, precision="fp32"))
    train(replace(config, checkpoint=CheckpointConfig(best="")), build_accelerator("fp32"))
    with pytest.raises(InputError, match=r"has no best network: .* Use --checkpoint newest"):
        open_network(config.run.folder)
    with pytest.raises(InputError, match="is not a run"):
        open_network(tmp_path)


@pytest.mark.parametrize("resume", ["never", "path"])
def test_a_command_that_is_started_again_goes_on_with_its_own_checkpoints(
    resume: str, small_set: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm's requeue and torchrun's restart repeat the whole command, with its `run.resume`."""
    first = build_config(tmp_path, small_set, "first", train=TrainConfig(steps=2, precision="fp32"))
    train(first, build_accelerator("fp32"))
    start = "never" if resume == "never" else str(first.run.folder / "checkpoints/step-000000002")
    config = build_config(
        tmp_path,
        small_set,
        "again",
        train=TrainConfig(steps=6, precision="fp32"),
        checkpoint=CheckpointConfig(every=2),
        run=RunConfig(name="again", dir=str(tmp_path), seed=3, resume=start),
    )
    train(config, build_accelerator("fp32"))
    shutil.rmtree(config.run.folder / "checkpoints/step-000000006")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    found, _ = find_checkpoint(RunFolder(config.run.folder), start)
    assert found is not None
    assert found.folder == config.run.folder / "checkpoints/step-000000004"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    if resume == "never":
        with pytest.raises(InputError, match="is not empty"):
            find_checkpoint(RunFolder(config.run.folder), start)
    else:
        assert str(find_checkpoint(RunFolder(config.run.folder), start)[0].folder) == start  # type: ignore[union-attr]
