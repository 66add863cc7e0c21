"""`routing.strategy` roaming: a run whose masks move, what it leaves behind, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from helpers.run_configs import ADAMW, build_config, saved_state
from helpers.shard_sets import ShardSet
from matl_scale.errors import InputError
from matl_scale.models.config import ModelConfig
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.report.mask_moves import read_moves, summarise_moves
from matl_scale.report.mask_overlap import read_masks
from matl_scale.report.page.routing_section import build_routing_section
from matl_scale.routing.move import stream_masks
from matl_scale.runs.checkpoints.checkpoint import open_checkpoint
from matl_scale.runs.checkpoints.network import open_network, restore_network
from matl_scale.runs.history import RunHistory
from matl_scale.train.config import Config, RunConfig
from matl_scale.train.evaluation import EvalConfig, Evaluator
from matl_scale.train.length import Length
from matl_scale.train.masks.move_times import DONE_BY, MoveTimes
from matl_scale.train.process_group import build_accelerator
from matl_scale.train.run import train
from matl_scale.train.run_data import build_run_data
from matl_scale.train.schedule import CheckpointConfig
from matl_scale.train.step.optim import OptimConfig
from matl_scale.train.step.sampling import TasksConfig
from matl_scale.train.step.train_step import TrainConfig

ROAMING = RoutingConfig(sigma=0.5, routes=2, strategy="roaming")


def config_of(folder: Path, data: ShardSet, name: str, **sections: Any) -> Config:
    usual = {
        "routing": ROAMING,
        "optim": ADAMW,
        "tasks": TasksConfig(),
        "train": TrainConfig(steps=24, precision="fp32", accumulate=2, ema_decay=0.8),
        "eval": EvalConfig(every=8, batch_size=7),
        "checkpoint": CheckpointConfig(every=10),
    }
    return build_config(folder, data, name, **usual | sections)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, small_set: ShardSet) -> Config:
    config = config_of(tmp_path_factory.mktemp("roaming"), small_set, "run")
    train(config, build_accelerator("fp32"))
    return config


def test_every_route_has_tried_all_units_by_the_end(finished: Config) -> None:
    state = saved_state(finished)
    model = restore_network(open_checkpoint(finished.run.folder), torch.device("cpu"))
    masks, moves = stream_masks(model.trunk), state["moves"]
    assert len(moves["steps"]) == 16, "of 32 units, a route of the widest layers begins with 16"
    assert moves["steps"][0] > 0
    assert moves["steps"][-1] <= DONE_BY * 24 + 1
    for name, mask in masks.items():
        assert mask.sum(dim=1).tolist() == [mask.shape[1] // 2] * 2
        for route_id, active in enumerate(mask):
            given_up = moves["given_up"][name][:, route_id].tolist()
            assert sorted(given_up + active.nonzero().flatten().tolist()) == list(range(mask.shape[1]))


def test_the_last_evaluation_is_that_of_the_saved_network(finished: Config) -> None:
    """The evaluator was built before the masks moved, and runs a moving average on slices."""
    model = restore_network(open_checkpoint(finished.run.folder), torch.device("cpu"))
    assert model.routes.num_routes == 2
    data = build_run_data(finished.data).evaluation("val")
    metrics = Evaluator(build_accelerator("fp32"), model, data, batch_size=7, execution="masked")()
    table = pq.read_table(finished.run.folder / "per_task.parquet").to_pandas()
    last = table[(table["step"] == 24) & (table["metric"] == "loss")]
    np.testing.assert_allclose(last["value"], metrics.values["loss"], rtol=1e-4)
    restore_network(open_network(finished.run.folder, "best"), torch.device("cpu"))


def test_the_run_folder_tells_how_masks_moved(finished: Config) -> None:
    moves, masks = read_moves(finished.run.folder), read_masks(finished.run.folder)
    assert moves is not None
    assert masks is not None
    assert not any(name.startswith("moves") for name in masks)
    assert moves.steps.tolist() == saved_state(finished)["moves"]["steps"].tolist()
    model = restore_network(open_checkpoint(finished.run.folder), torch.device("cpu"))
    found = moves.masks_after(len(moves.steps))
    for name, mask in stream_masks(model.trunk).items():
        np.testing.assert_array_equal(found[name], mask.numpy())
    stages = summarise_moves(moves)
    assert [stage.moves for stage in stages] == [0, 4, 8, 12, 16]
    assert stages[0].tried == 0.5
    assert stages[-1].tried == 1.0
    assert all(0 <= stage.overlap <= 1 for stage in stages)
    run = RunHistory(finished.run.folder)
    section = build_routing_section(run, run.latest("val"))
    assert section is not None
    assert any("Masks have moved 16 times" in text for text in section.paragraphs)
    assert len(section.tables[-1].rows) == 5


def test_a_run_may_start_from_one_that_roamed_but_from_no_other(
    finished: Config, small_set: ShardSet, tmp_path: Path
) -> None:
    def start(routing: RoutingConfig, start_from: Path, name: str) -> Config:
        config = config_of(
            tmp_path, small_set, name, routing=routing, train=TrainConfig(steps=4, precision="fp32", accumulate=2)
        )
        config = replace(config, run=replace(config.run, start_from=str(start_from)))
        train(config, build_accelerator("fp32"))
        return config

    more = start(replace(ROAMING, interval=1), finished.run.folder, "more")
    assert saved_state(more)["moves"]["steps"].tolist() == [1, 2, 3]
    still = start(replace(ROAMING, strategy="random"), finished.run.folder, "still")
    assert saved_state(still)["moves"]["steps"].tolist() == []
    with pytest.raises(
        InputError, match=r"was trained with `routing.strategy` = 'random', and routes can roam only from"
    ):
        start(ROAMING, still.run.folder, "other")
    with pytest.raises(InputError, match=r"was trained with `routing.strategy` = 'roaming', not 'random'"):
        train(replace(finished, routing=replace(ROAMING, strategy="random")), build_accelerator("fp32"))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"routing": RoutingConfig(sigma=0.5, strategy="roaming", interval=2)},
            "`routing.interval` should be at least 3",
        ),
        ({"routing": RoutingConfig(routes="one", sigma=0.99, strategy="roaming")}, "every route keeps all units"),
    ],
    ids=["less than one draw", "no unit to take"],
)
def test_what_a_run_refuses(sections: dict[str, Any], message: str, small_set: ShardSet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        train(config_of(tmp_path, small_set, "refused", **sections), build_accelerator("fp32"))


def test_what_a_config_refuses() -> None:
    for sigmas in ({}, {"layer4": 1.0}):
        with pytest.raises(InputError, match=r"roaming needs `routing.sigma` below 1"):
            RoutingConfig(sigma=1.0, sigmas=sigmas, strategy="roaming")
    for strategy in ("random", "partition"):
        with pytest.raises(InputError, match=f"should be auto with the strategy {strategy}"):
            RoutingConfig(strategy=strategy, interval=10)
    with pytest.raises(InputError, match=r"`routing\.interval` should be at least 1"):
        RoutingConfig(strategy="roaming", interval=0)
    with pytest.raises(InputError, match=r"`run.freeze` should be nothing with `routing.strategy` = roaming"):
        Config(routing=ROAMING, run=RunConfig(freeze="old", start_from="somewhere"))
    with pytest.raises(InputError, match=r"`model.freeze` should be \[\] with `routing.strategy` = roaming"):
        Config(routing=ROAMING, model=ModelConfig(freeze="layer1"))
    with pytest.raises(InputError, match=r"`optim.head_warmup` should be 0 with `routing.strategy` = roaming"):
        Config(routing=ROAMING, optim=OptimConfig(head_warmup=0.1))


@pytest.mark.parametrize("num_steps", [1, 7, 50, 999])
@pytest.mark.parametrize("num_moves", [1, 3, 40])
@pytest.mark.parametrize("steps_per_draw", [1, 4])
def test_auto_moves_as_often_as_routes_are_drawn_and_ends_in_time(
    num_steps: int, num_moves: int, steps_per_draw: int
) -> None:
    length = Length(num_steps=num_steps)
    times = MoveTimes(interval="auto", steps_per_draw=steps_per_draw, num_moves=num_moves)
    due = [step for step in range(num_steps) if times.is_due(step, length)][:num_moves]
    assert len(due) == times.moves_in(length)
    assert min(np.diff(due), default=steps_per_draw) >= steps_per_draw
    enough = num_moves / DONE_BY + 1 <= num_steps // steps_per_draw
    assert ("after that each route has tried all units" in times.describe(length)) == (len(due) == num_moves)
    if enough:
        assert len(due) == num_moves
        assert due[-1] <= DONE_BY * num_steps + 1
    by_number = MoveTimes(interval=5, steps_per_draw=steps_per_draw, num_moves=num_moves)
    assert [step for step in range(num_steps) if by_number.is_due(step, length)] == list(range(5, num_steps, 5))


def test_auto_follows_a_length_that_is_fitted() -> None:
    times, length, moved = MoveTimes(interval="auto", steps_per_draw=1, num_moves=20), Length(num_steps=100), []
    for step in range(400):
        if step == 30:
            length.fit(step, 400)
        moved += [step] * times.is_due(step, length)
    assert len(moved) == 24
    assert moved[19] <= 340
