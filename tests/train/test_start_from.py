"""A run that starts from another one's network: old tasks keep what they learned, new ones get masks and heads."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from helpers.commands import matl_data
from helpers.run_configs import plain
from helpers.shard_sets import ShardSet
from matl_scale.automatic import AUTO
from matl_scale.data.loading.config import DataConfig
from matl_scale.data.shards.manifest import read_manifest
from matl_scale.errors import InputError
from matl_scale.models.config import ModelConfig
from matl_scale.models.network import RoutedModel
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.routing.affine import Affine, affine_norms
from matl_scale.routing.batch_norm import route_norms
from matl_scale.routing.masks import Strategy
from matl_scale.routing.router import TaskRouter
from matl_scale.runs.checkpoints.checkpoint import open_checkpoint
from matl_scale.runs.checkpoints.network import restore_network
from matl_scale.tracking.recorder import TrackConfig
from matl_scale.train.build_routes import build_routes
from matl_scale.train.build_state import build_state
from matl_scale.train.config import Config, RunConfig, read_saved
from matl_scale.train.evaluation import EvalConfig
from matl_scale.train.length import Length
from matl_scale.train.process_group import build_accelerator
from matl_scale.train.resolve import resolve_offline
from matl_scale.train.resume.open_run import OpenedRun
from matl_scale.train.resume.start_from import describe_start, find_start
from matl_scale.train.run import train
from matl_scale.train.run_data import build_run_data
from matl_scale.train.schedule import CheckpointConfig
from matl_scale.train.step.train_step import TrainConfig


def build_config(folder: Path, data: Path, name: str, **run: str) -> Config:
    config = Config(
        run=RunConfig(name=name, dir=str(folder / "runs"), **run),  # type: ignore[arg-type]
        data=DataConfig(path=str(data), batch_size=8, workers=0),
        model=ModelConfig(name="resnet18", width=0.125, stem="standard"),
        routing=RoutingConfig(sigma=0.5),
        train=TrainConfig(steps=4, precision="fp32", slots="single"),
        eval=EvalConfig(every=0),
        checkpoint=CheckpointConfig(every=2),
        track=TrackConfig(mlflow=False),
    )
    return plain(config)


def run(config: Config) -> RoutedModel:
    """Trains and returns the network of the last checkpoint."""
    train(config, build_accelerator("fp32"))
    return restore_network(open_checkpoint(config.run.folder), torch.device("cpu"))


@pytest.fixture(scope="module")
def extended(small_set: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the small set with a task more, in front of which one was dropped."""
    root = tmp_path_factory.mktemp("extended") / "set"
    shutil.copytree(small_set.root, root)
    paths = read_manifest(root).samples["path"].to_pylist()
    pq.write_table(pa.table({"image": paths, "new": [i % 2 for i in range(len(paths))]}), root.parent / "more.parquet")
    assert matl_data(["tasks", "add", str(root), "--labels", str(root.parent / "more.parquet")]) == 0
    assert matl_data(["tasks", "drop", str(root), "task_1"]) == 0
    return root


def test_images_have_the_size_that_the_network_had_and_weights_of_others_count_no_more(
    extended: Path, tmp_path: Path
) -> None:
    base = build_config(tmp_path, extended, "first")
    run(replace(base, data=replace(base.data, version="1", image_size=24), train=replace(base.train, slots="auto")))
    config = build_config(tmp_path, extended, "second", start_from=str(tmp_path / "runs/first"))
    config = replace(config, data=replace(config.data, image_size=AUTO, fit="pad"))
    resolved, data = resolve_offline(
        replace(config, model=replace(config.model, width=AUTO, weights="of/an/earlier/run.pth"))
    )
    assert (resolved.config.data.image_size, data.image_size, resolved.config.model.weights) == (24, 24, "")
    start = find_start(config.run.start_from)
    assert start is not None
    assert read_saved(start.config).train.slots == AUTO, "what it stands for depends on what the next run asks for"
    said = describe_start(start, [0, None], resolved.config.data)
    assert said.endswith(
        "1 tasks are kept, 1 are new; its images had `data.image_size` 24 and `data.fit` crop, here 24 and pad"
    )


def test_old_tasks_go_on_and_new_ones_are_routed(extended: Path, tmp_path: Path) -> None:
    base = build_config(tmp_path, extended, "first")
    first = run(replace(base, data=replace(base.data, version="1")))
    config = build_config(tmp_path, extended, "second", start_from=str(tmp_path / "runs/first"))
    data = build_run_data(config.data)
    assert data.task_names == ["task_0", "task_2", "task_3", "task_4", "task_5", "new"]
    start = find_start(config.run.start_from)
    opened = OpenedRun(checkpoint=None, start=start, complaints=[], evaluations=set())
    routes = build_routes(config, data, None, start).routes
    assert routes.tasks_of == [[0], [1], [2], [3], [4], [5]]
    second = build_state(config, data, routes, build_accelerator("fp32"), opened, Length(), "single")[0].model.eval()
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for here, there in enumerate((0, 2, 3, 4, 5)):
        assert torch.equal(second(images, here), first(images, there))
    assert any(head.weight.any() for head in first.heads)
    assert not second.heads[5].weight.any()
    assert all(norm.num_updates[5] == 0 for norm in route_norms(second))
    for router in (module for module in second.trunk.modules() if isinstance(module, TaskRouter)):
        kept = router.mask.sum(dim=1)
        assert (kept == kept[0]).all()

    again = run(replace(config, run=replace(config.run, name="again")))
    shutil.rmtree(tmp_path / "runs/first")  # a run that goes on needs its own checkpoint only
    longer = replace(config, run=replace(config.run, name="again"), train=replace(config.train, steps=6))
    resumed = run(longer)
    for name, value in again.state_dict().items():
        if name.endswith("mask"):
            assert torch.equal(value, resumed.state_dict()[name])


@pytest.mark.parametrize("strategy", ["random", "affinity"])
def test_masks_of_a_new_task_do_not_depend_on_the_others(
    extended: Path, tmp_path: Path, strategy: Strategy, capsys: pytest.CaptureFixture[str]
) -> None:
    base = build_config(tmp_path, extended, "base")
    run(replace(base, data=replace(base.data, version="1")))
    masks = []
    routing = RoutingConfig(sigma=0.5, strategy=strategy)
    for name, tasks in (("one", "*"), ("two", ["task_0", "new"])):
        config = build_config(tmp_path, extended, name, start_from=str(tmp_path / "runs/base"))
        model = run(replace(config, routing=routing, data=replace(config.data, tasks=tasks)))
        masks.append([m.mask[-1].numpy() for m in model.trunk.modules() if isinstance(m, TaskRouter)])
    for one, two in zip(*masks, strict=True):
        np.testing.assert_array_equal(one, two)
    said = "the masks of 1 new routes are drawn as with random, the others stay" in capsys.readouterr().err
    assert said == (strategy == "affinity")


@pytest.mark.parametrize("first", ["shared", "route"])
def test_affine_weights_of_routes_go_on_and_new_routes_start_from_their_mean(
    extended: Path, tmp_path: Path, first: Affine
) -> None:
    base = build_config(tmp_path, extended, "first")
    base = replace(base, routing=replace(base.routing, affine=first), data=replace(base.data, version="1"))
    before = run(base)
    config = build_config(tmp_path, extended, "second", start_from=str(tmp_path / "runs/first"))
    config = replace(config, routing=replace(config.routing, affine="route"), train=replace(config.train, steps=1))
    config = replace(config, optim=replace(config.optim, lr=0.0))
    after = run(config)
    assert after.affine is not None
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for here, there in enumerate((0, 2, 3, 4, 5)):
        old, index = before.affine_of(there), torch.tensor([there])
        mine = after.affine_of(here)
        assert mine is not None
        if old is not None:
            assert all(torch.equal(one, two) for one, two in zip(mine, old, strict=True))
        assert before.trunk(images, index, old).shape == after.trunk(images, torch.tensor([here]), mine).shape
    if before.affine is None:
        shared = torch.cat([torch.cat([norm.weight, norm.bias]) for norm in affine_norms(after.trunk)])
        assert all(torch.equal(row, shared) for row in after.affine.rows)
        name, wanted = "layer1.0.bn1.weight", before.trunk.get_parameter("layer1.0.bn1.weight")
        assert torch.equal(after.trunk.get_buffer(name), wanted)
        return
    mean = torch.stack(list(before.affine.rows)).mean(dim=0)
    assert torch.allclose(after.affine.rows[5], mean)
    back = replace(config, run=replace(config.run, name="third"), routing=replace(config.routing, affine="shared"))
    with pytest.raises(InputError, match=r"has affine weights per route: `routing.affine` should be route"):
        run(back)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": ModelConfig(name="resnet18", width=0.25)}, "was trained with `model.width` = 0.125, not 0.25"),
        ({"routing": RoutingConfig(sigma=0.25)}, "`routing.sigma` and `routing.align` should be those of the network"),
        ({"routing": RoutingConfig(sigma=0.5, strategy="partition")}, "there are none left for new ones"),
        (
            {"routing": RoutingConfig(sigma=0.5, sigma_last=0.25)},
            "was trained with `routing.sigma_last` = 'none', not 0.25",
        ),
    ],
)
def test_networks_that_do_not_fit_are_refused(
    extended: Path, tmp_path_factory: pytest.TempPathFactory, change: dict[str, object], message: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / "refused"
    base = build_config(folder, extended, "base")
    run(replace(base, data=replace(base.data, version="1")))
    config = build_config(folder, extended, "other", start_from=str(folder / "runs/base"))
    with pytest.raises(InputError, match=message):
        train(replace(config, **change), build_accelerator("fp32"))  # type: ignore[arg-type]
