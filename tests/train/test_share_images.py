"""`data.share`: which runs can have the same images in consecutive micro-steps, and what a step then counts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.run_configs import build_config
from helpers.shard_sets import ShardSet
from matl_scale import InputError
from matl_scale.automatic import chosen
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.train.config import Config, with_settings
from matl_scale.train.resolve import resolve_offline
from matl_scale.train.step.sampling import TasksConfig
from matl_scale.train.step.train_step import TrainConfig


def sharing(folder: Path, shards: ShardSet, **changes: Any) -> Config:
    config = build_config(
        folder,
        shards,
        "sharing",
        routing=RoutingConfig(sigma=0.5, routes=3),
        tasks=TasksConfig(),
        train=TrainConfig(steps=4, precision="fp32", accumulate=2),
    )
    return with_settings(replace(config, data=replace(config.data, share=2)), changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.share": 0}, "`data.share` should be at least 1"),
        ({"data.share": 3}, "should divide the micro-steps of a rank, `train.accumulate` = 2. Got 3"),
        ({"routing.routes": "one", "routing.sigma": 1.0}, "at most the number of routes, 1"),
        ({"train.accumulate": 4}, r"should divide the number of routes, 3, where a step has more .* \(4\)"),
        ({"routing.routes": "task"}, "fewer than one in 2.*task_5"),
        ({"routing.routes": "task", "data.balance": 0.5}, "which draws other samples for each route"),
    ],
)
def test_what_cannot_share_images_is_refused(
    changes: dict[str, Any], message: str, sparse_set: ShardSet, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        resolve_offline(sharing(tmp_path, sparse_set, **changes))


def test_a_step_counts_the_images_of_a_batch_that_carry_a_label_for_the_route(
    sparse_set: ShardSet, tmp_path: Path
) -> None:
    resolved, data = resolve_offline(sharing(tmp_path, sparse_set))
    labels = data.manifest.labels()[data.manifest.sample_ids("train")] >= 0
    labels = labels[labels.any(axis=1)]
    step, routes = resolved.step_labels, resolved.routes.routes
    for route, tasks in enumerate(routes.tasks_of):
        assert step.images[route] == pytest.approx(6 * labels[:, tasks].any(axis=1).mean())
        assert step.labels[route] == pytest.approx(6 * labels[:, tasks].sum() / len(labels))
    # when each route has had its turn on all images, that is one pass over the labels
    assert step.passes(1) == pytest.approx(2 * 6 * labels.sum() / 3 / len(labels) / labels.sum())


def test_the_micro_steps_that_are_chosen_are_a_multiple(sparse_set: ShardSet, tmp_path: Path) -> None:
    config = sharing(tmp_path, sparse_set, **{"train.accumulate": "auto", "data.batch_size": "auto"})
    resolved, _ = resolve_offline(config)
    assert chosen(resolved.config.train.accumulate) == 2
    assert resolved.config.data.share == 2
    assert np.isfinite(resolved.step_labels.images).all()
