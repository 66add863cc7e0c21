"""What a run chooses where its config says `auto`: by rules that are pure functions, once, and kept."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_prep.dataset import from_arrays
from data_prep.shard_set import write_shard_set
from helpers.resolved_runs import LAPTOP, config_of, resolved
from helpers.shard_sets import ShardSet
from matl_scale.data.images.array_images import ArrayImages
from matl_scale.data.loading.plan import RouteOrder
from matl_scale.errors import InputError
from matl_scale.models.backbone_size import measure_backbone
from matl_scale.models.config import ModelConfig
from matl_scale.runs.checkpoints.checkpoint import open_checkpoint
from matl_scale.tasks import Task
from matl_scale.tracking.recorder import TrackConfig
from matl_scale.train.config import RunConfig, walk, with_settings
from matl_scale.train.defaults import fill, rules
from matl_scale.train.defaults.facts import Machine
from matl_scale.train.evaluation import EvalConfig
from matl_scale.train.parse_config import parse_config
from matl_scale.train.process_group import build_accelerator
from matl_scale.train.resolve import measure_rarest, resolve_run
from matl_scale.train.run import train
from matl_scale.train.run_data import build_run_data
from matl_scale.train.step.sampling import TasksConfig, build_sampler
from matl_scale.train.step.train_step import TrainConfig

GPUS = Machine(num_ranks=4, cores=8, threads=8, has_gpu=True, memory=2**36)
DECIDED = "macro_decided_balanced_accuracy"
STAY_OPEN = {
    "train.slots",
    "train.ema_decay",
    "optim.warmup_steps",
    "eval.every",
    "checkpoint.every",
    "routing.interval",
    "routing.dense_share",
    "model.drop_path",
}  # they say themselves what they mean


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sparse(tmp_path_factory.mktemp("sparse") / "set", size=8)


def write_sparse(root: Path, size: int) -> Path:
    """Writes a set of ten tasks, each with 40 images of its own, of so many pixels per side."""
    generator = np.random.default_rng(0)
    labels = np.full((400, 10), -1, dtype=np.int8)
    labels[np.arange(400), np.arange(400) % 10] = generator.integers(0, 2, 400)
    pixels = generator.integers(0, 256, (400, size, size, 3), dtype=np.uint8)
    dataset = from_arrays(
        tasks=[Task(name=f"t{i}", classes=("no", "yes")) for i in range(10)],
        names=[f"{i}.png" for i in range(400)],
        labels=labels,
        splits=["train" if i % 4 else "val" for i in range(400)],
        images=ArrayImages(root="memory", pixels=pixels),
    )
    write_shard_set(lambda _: dataset, root)
    return root


@pytest.mark.parametrize(
    "settings",
    [
        {"routing__strategy": "roaming"},
        {"routing__strategy": "affinity"},
        {"routing__sigmas": {"features.8": 0.5}},
        {"routing__sigma_last": 0.5},
        {"routing__start": "features.8"},
        {"routing__layers": ["features.8"]},
    ],
    ids=str,
)
def test_a_setting_about_routes_makes_routes(sparse: Path, settings: dict[str, object]) -> None:
    """Its effect would be lost with one route; σ 1 and one route, which are asked for, stay."""
    asked = resolved(config_of(sparse, **settings)).config.routing
    assert (asked.routes, asked.sigma) == ("task", 0.75)
    plain = resolved(config_of(sparse)).config.routing
    assert (plain.routes, plain.sigma) == ("one", 1)
    if "routing__strategy" not in settings:
        one = resolved(config_of(sparse, **settings, routing__routes="one")).config.routing
        assert (one.routes, one.sigma) == ("one", 1)


@pytest.mark.parametrize("num_samples", [1_000, 20_000, 300_000, 10_000_000])
def test_rules_are_sensible_at_every_size(num_samples: int) -> None:
    epochs, images = rules.choose_epochs(num_samples), rules.choose_step_images(num_samples)
    assert 4 <= epochs <= 120
    assert images == 2 ** round(math.log2(images))
    assert 1_000 <= epochs * num_samples / images <= 100_000, "steps of a run of one route"
    assert 1e-3 <= rules.choose_rate("adamw", images) <= 4e-3


def test_larger_sets_get_fewer_passes_and_more_images_per_step() -> None:
    sizes = [10**k for k in range(3, 8)]
    epochs, images = ([rule(size) for size in sizes] for rule in (rules.choose_epochs, rules.choose_step_images))
    assert epochs == sorted(epochs, reverse=True)
    assert images == sorted(images)


def test_a_batch_fits_into_memory() -> None:
    unlimited = rules.choose_batch_size(10**6, 4, 10**6, 2**40)
    assert unlimited == rules.choose_step_images(10**6) // 4
    limited = rules.choose_batch_size(10**6, 4, 10**8, 2**32)
    assert limited < unlimited
    assert limited * 10**8 <= 2**32 / 2
    assert rules.choose_batch_size(10**6, 4, 10**12, 2**32) == 2, "batch norm needs two"


def test_what_a_backbone_costs_is_what_its_layers_cost() -> None:
    model = ModelConfig(name="vgg11_bn", width=0.125, stem="small")
    convs = [(3, 8, 16), (8, 16, 16), (16, 32, 8), (32, 32, 8), (32, 64, 4), (64, 64, 4), (64, 64, 2), (64, 64, 2)]
    size = measure_backbone(model, 16)
    assert size.multiply_adds == sum(9 * ins * outs * side**2 for ins, outs, side in convs)
    assert size.activation_bytes == sum(2 * 4 * outs * side**2 for _, outs, side in convs)
    assert measure_backbone(replace(model, width=0.25), 16).multiply_adds > 3 * size.multiply_adds


def test_the_best_network_is_not_chosen_by_thresholds_where_classes_have_few_samples(sparse: Path) -> None:
    found = resolved(config_of(sparse, train__steps=2))
    assert found.config.checkpoint.best == "macro_average_precision"
    assert any("samples of its rarest class there, too few to choose by decisions" in line for line in found.lines)
    data = build_run_data(with_settings(config_of(sparse), {"data.workers": 0}).data)
    columns = data.manifest.labels()[data.manifest.sample_ids("val")].T
    rarest = [min(np.sum(column == 0), np.sum(column == 1)) for column in columns]
    assert measure_rarest(data, EvalConfig()) == np.median([number for number in rarest if number]) < 20
    assert measure_rarest(data, EvalConfig(split="none")) == math.inf
    assert [rules.choose_best_metric(number) for number in (19, 20, math.inf)] == [
        "macro_average_precision",
        DECIDED,
        DECIDED,
    ]
    own = resolved(config_of(sparse, train__steps=2, checkpoint__best="worst_auroc"))
    assert own.config.checkpoint.best == "worst_auroc"
    assert not any("best network" in line for line in own.lines)
    # tasks that do not count in means do not count here
    none = resolved(config_of(sparse, train__steps=2, eval__min_count=50))
    assert none.config.checkpoint.best == DECIDED


def test_every_choice_is_made_and_said(sparse: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = replace(
        config_of(sparse, train__steps=2, routing__routes="task"),
        run=RunConfig(dir=str(tmp_path), name="first"),
        track=TrackConfig(mlflow=False),
    )
    train(config, build_accelerator("fp32"))
    said = capsys.readouterr().err
    found = resolved(config)
    assert all(line in said for line in [*found.lines, found.routes.reason])
    kept = parse_config(["--config", str(tmp_path / "first" / "config.yaml")], "test", "")
    assert {key for key, value in walk(kept) if value == "auto"} == {*STAY_OPEN, "run.resume"}
    assert dict(walk(kept)) == dict(
        walk(replace(found.config, data=replace(found.config.data, workers=kept.data.workers)))
    )
    assert kept.data.image_size == 16, "images of 8 pixels are enlarged"

    # a run that resumes keeps what it chose, even where the rules would say something else by now
    given = replace(config, train=TrainConfig())
    checkpoint = open_checkpoint(tmp_path / "first")
    checkpoint.config["optim"]["lr"], checkpoint.config["model"]["width"] = 0.0123, 0.25
    again = resolve_run(given, build_run_data(kept.data), LAPTOP, checkpoint, None)
    assert (again.config.optim.lr, again.config.model.width, again.config.train.steps) == (0.0123, 0.25, 2)
    assert not again.lines
    longer = resolve_run(
        with_settings(given, {"train.epochs": 7.0}), build_run_data(kept.data), LAPTOP, checkpoint, None
    )
    assert longer.config.train.steps == math.ceil(7 / longer.step_labels.passes(1))
    two_ranks = replace(LAPTOP, num_ranks=2)
    halved = resolve_run(given, build_run_data(kept.data), two_ranks, checkpoint, None)
    assert 2 * halved.config.train.accumulate == again.config.train.accumulate
    many = resolve_run(given, build_run_data(kept.data), replace(LAPTOP, num_ranks=16), checkpoint, None)
    assert many.config.train.accumulate == 1, "not eight for each of 16 ranks, with the rate of eight"
    for other in ({"train.minutes": 3.0}, {"train.epochs": 7.0}, {"train.steps": 9}):
        found = resolve_run(with_settings(given, other), build_run_data(kept.data), LAPTOP, checkpoint, None).config
        assert other.items() <= dict(walk(found)).items()
        assert found.train.minutes == other.get("train.minutes", 0)


def test_a_run_that_resumes_keeps_the_size_of_its_images(sparse: Path, tmp_path: Path) -> None:
    """An earlier version kept images of 8 pixels as they are, which `auto` enlarges."""
    values = {"model.name": "resnet18", "model.width": 0.0625, "model.stem": "small", "data.workers": 0}
    config = replace(
        with_settings(config_of(sparse), values), run=RunConfig(dir=str(tmp_path)), track=TrackConfig(mlflow=False)
    )
    train(with_settings(config, {"data.image_size": 0, "train.steps": 1}), build_accelerator("fp32"))
    train(with_settings(config, {"train.steps": 2}), build_accelerator("fp32"))
    last = open_checkpoint(tmp_path / "run")
    assert (last.step, last.image_size) == (2, 8)


def test_a_run_that_starts_with_a_network_takes_over_its_shape(small_set: ShardSet, tmp_path: Path) -> None:
    values = {"model.name": "resnet18", "model.width": 0.0625, "model.stem": "small", "routing.sigma": 0.75}
    first = with_settings(config_of(small_set), {**values, "train.steps": 1, "routing.routes": "task"})
    first = replace(first, run=RunConfig(dir=str(tmp_path), name="first"), track=TrackConfig(mlflow=False))
    train(first, build_accelerator("fp32"))
    config = replace(config_of(small_set), run=RunConfig(start_from=str(tmp_path / "first")))
    start = open_checkpoint(tmp_path / "first")
    found = resolve_run(config, build_run_data(config_of(small_set, data__workers=0).data), LAPTOP, None, start).config
    assert {key: value for key, value in walk(found) if key in values} == values


def test_routes_follow_from_what_is_said_of_them(small_set: ShardSet, sparse: Path) -> None:
    for path in (small_set, sparse):
        found = resolved(config_of(path))
        assert (found.config.routing.routes, found.config.routing.sigma) == ("one", 1.0)
        assert "routing.routes auto → one: the plain network" in found.routes.reason
    assert resolved(config_of(small_set, routing__routes="task")).config.routing.sigma < 1
    assert resolved(config_of(small_set, routing__sigma=0.5)).config.routing.routes != "one"


def test_what_is_given_stays(small_set: ShardSet) -> None:
    values = {
        "data.batch_size": 5, "data.augment": "flip", "data.image_size": 24, "model.name": "resnet34", "model.width": 0.0625,
        "model.stem": "standard", "routing.sigma": 0.75, "routing.routes": 2, "train.epochs": 3.0, "train.accumulate": 3,
        "train.ema_decay": 0.5, "optim.lr": 0.01, "optim.head_lr_scale": 2.0, "optim.warmup_steps": 4,
    }  # fmt: skip
    found = dict(walk(resolved(with_settings(config_of(small_set), values)).config))
    assert {key: found[key] for key in values} == values
    both = resolved(config_of(small_set, train__steps=9, train__epochs=3.0))
    assert both.config.train.steps == 9
    assert "train.steps wins over train.epochs 3" in both.lines


def test_channels_last_is_refused_where_convs_crash_with_it(small_set: ShardSet) -> None:
    def check(machine: Machine = LAPTOP, **settings: object) -> None:
        resolved(config_of(small_set, train__channels_last=True, data__image_size=32, **settings), machine)

    narrow = {"model__name": "resnet18", "model__width": 0.125, "model__stem": "small"}
    with pytest.raises(InputError, match=r"fewer than 16 input channels; `layer2\.0\.downsample\.0` has 8\."):
        check(**narrow)
    check(GPUS, **narrow)
    check(**narrow | {"model__width": 0.25})
    with pytest.raises(InputError, match=r"`layer2\.0\.downsample\.0` has 8\."):
        check(**narrow | {"model__width": 0.25}, routing__sigma=0.5)
    check(model__name="mobilenet_v2", model__width=0.125)


def test_a_patience_that_cannot_end_a_run_is_said(small_set: ShardSet) -> None:
    def said(**settings: object) -> list[str]:
        return [line for line in resolved(config_of(small_set, **settings)).lines if "patience" in line]

    assert said(train__patience=3) == said(train__patience=8, eval__every=2, train__steps=20) == []
    assert said(train__patience=4) == [
        "train.patience 4 cannot end this run early, which is evaluated 5 times: set eval.every"
    ]
    assert said(train__patience=9, eval__every=2, train__steps=20)


@pytest.mark.parametrize(
    ("name", "image_size", "stem"),
    [
        ("vgg11_bn", 16, "small"), ("vgg11_bn", 32, "standard"), ("vgg11_bn", 64, "standard"),
        ("resnet18", 32, "small"), ("resnet18", 64, "standard"), ("vit_b_16", 32, "standard"),
    ],
)  # fmt: skip
def test_a_stem_that_keeps_the_resolution_is_not_made_small(
    name: str, image_size: int, stem: str, small_set: ShardSet
) -> None:
    config = config_of(small_set, model__name=name, data__image_size=image_size, train__steps=1)
    assert resolved(config).config.model.stem == stem


def test_the_network_of_a_cpu_fits_the_time(small_set: ShardSet) -> None:
    short, long = (resolved(config_of(small_set, train__minutes=minutes)).config.model.width for minutes in (0.01, 500))
    assert short < long <= 1
    assert resolved(config_of(small_set, train__minutes=0.01), GPUS).config.model.width == 1
    fixed = resolved(config_of(small_set, model__name="convnext_tiny", data__image_size=64, train__minutes=0.01))
    assert fixed.config.model.width == 1, "this backbone cannot be scaled"


def test_a_slow_machine_trains_a_narrower_network(small_set: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the same minutes; a run whose length is no time is the same on all machines."""
    widths = {}
    for factor in (1e-9, 1e-5):  # seconds per multiply-add
        monkeypatch.setattr(
            fill, "measure_image_s", lambda model, side, f=factor: f * measure_backbone(model, side).multiply_adds
        )
        widths[factor] = [
            resolved(config_of(small_set, **length)).config.model.width
            for length in ({"train__minutes": 1}, {"train__epochs": 2})
        ]
    assert widths[1e-9][0] > widths[1e-5][0]
    assert widths[1e-9][1] == widths[1e-5][1]


def test_images_are_read_smaller_where_the_minutes_are_too_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_sparse(tmp_path / "set", size=96)
    capsys.readouterr()
    monkeypatch.setattr(fill, "measure_image_s", lambda _, side: 1e-6 * side**2)
    # 300 images, of which a run makes 40 passes if it has time
    sizes = {
        minutes: resolved(config_of(root, train__minutes=minutes)).config.data.image_size
        for minutes in (100, 1, 0.5, 0.001)
    }
    assert sizes == {100: 96, 1: 64, 0.5: 48, 0.001: 32}
    found = resolved(config_of(root, train__minutes=0.5))
    assert any("on images of 48 pixels (of 96, for which 0.5 min are too short" in line for line in found.lines)
    assert resolved(config_of(root)).config.data.image_size == 96
    for given in ({"data__image_size": 80}, {"data__image_size": 0}):
        config = resolved(config_of(root, train__minutes=0.001, **given)).config
        assert config.data.image_size == given["data__image_size"]
    assert resolved(config_of(root, train__minutes=0.001), GPUS).config.data.image_size == 96
    fixed = config_of(root, train__minutes=0.001, model__name="vit_b_16", model__width=1)
    assert resolved(fixed).config.data.image_size == 96


def test_an_image_size_that_is_too_slow_or_cannot_be_built_is_not_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_sparse(tmp_path / "set", size=96)
    monkeypatch.setattr(fill, "measure_image_s", lambda model, side: 1e-6 * measure_backbone(model, side).multiply_adds)
    for settings, size in (
        ({"model__name": "resnet18"}, 64),  # below, its small stem costs more
        ({"model__name": "alexnet", "model__stem": "standard"}, 64),  # nor does it run on 32 pixels
    ):
        config = config_of(root, train__minutes=0.001, model__width=0.25, **settings)
        assert resolved(config).config.data.image_size == size
    for minutes in (0, 1):
        with pytest.raises(InputError, match="resnet81"):
            resolved(config_of(root, train__minutes=minutes, model__name="resnet81"))


def test_routes_of_a_step_are_shared_by_the_ranks(sparse: Path) -> None:
    config = config_of(sparse, routing__routes="task")
    assert resolved(config).config.train.accumulate == 2, "300 images have small steps"
    assert resolved(config, GPUS).config.train.accumulate == 1
    assert [rules.choose_accumulate(50_000, 20, num_ranks) for num_ranks in (1, 4, 16)] == [8, 2, 1]
    assert rules.choose_accumulate(50_000, 3, 1) == 3


@pytest.mark.parametrize("policy", ["rounds", "size"])
def test_labels_of_a_step_are_counted_as_they_come(small_set: ShardSet, policy: str) -> None:
    """Against the plan itself, over many steps."""
    values = {"routing.routes": 3, "data.batch_size": 4, "train.accumulate": 2, "routing.sigma": 0.5}
    config = replace(with_settings(config_of(small_set), values), tasks=TasksConfig(policy=policy))
    found = resolved(config)
    data = build_run_data(config_of(small_set, data__workers=0).data)
    routes, ids = found.routes.routes, data.manifest.sample_ids("train")
    order = RouteOrder(0, 4, data.labels_of("train"), routes)
    sampler = build_sampler(config.tasks, routes.names, order.count_samples(), 0, 2)
    drawn, images, labels, num_steps = [0] * 3, 0, 0, 3000
    for step in range(num_steps):
        for route in sampler.routes(step).tolist():
            batch = order.batch(route, drawn[route])
            drawn[route] += 1
            images += len(batch)
            labels += int((data.labels.at(batch, routes.tasks_of[route]) >= 0).sum())
    assert found.step_labels.images_per_step == pytest.approx(images / num_steps, rel=0.02)
    assert found.step_labels.labels_per_step == pytest.approx(labels / num_steps, rel=0.02)
    assert found.step_labels.num_labels == int((data.manifest.labels()[ids] >= 0).sum())
