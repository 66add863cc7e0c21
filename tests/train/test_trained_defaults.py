"""What a run chooses itself where it starts with weights that others have trained."""

from dataclasses import replace

import pytest

from helpers.resolved_runs import config_of, resolved
from helpers.shard_sets import ShardSet
from matl_scale.data.loading.config import DataConfig
from matl_scale.models.config import ModelConfig
from matl_scale.train.config import Config, read_saved, with_settings
from matl_scale.train.defaults import fill
from matl_scale.train.defaults.weights import fill_from_weights

LATE = "layer4.0.conv2"  # of a ResNet-18; see `test_routes_part_in_the_last_sixth`


def test_weights_of_torchvision_need_their_own_network(small_set: ShardSet) -> None:
    config = replace(config_of(small_set, data__image_size=64), model=ModelConfig(pretrained=True))
    found = resolved(fill_from_weights(config, None)).config.model
    assert (found.name, found.width, found.stem) == ("resnet18", 1.0, "standard")
    assert (found.mean, found.std) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    described = replace(config_of(small_set), model=ModelConfig(name="efficientnet_v2_l", pretrained=True))
    described = fill_from_weights(described, None)
    assert (described.model.mean, described.data.image_size) == ([0.5] * 3, 480), "what torchvision says of them"


def test_trained_weights_are_tuned_at_a_third_of_the_rate(small_set: ShardSet) -> None:
    def rate(**model: object) -> object:
        config = replace(config_of(small_set, data__image_size=64), model=ModelConfig(**{"name": "resnet18", **model}))
        return resolved(fill_from_weights(config, None)).config.optim.lr

    from_scratch = rate(width=1.0)
    assert rate(pretrained=True) == pytest.approx(from_scratch / 3, rel=0.05)
    assert rate(pretrained=True, freeze=["conv1"]) == rate(pretrained=True)
    assert rate(pretrained=True, freeze=["*"]) == from_scratch, "heads alone are trained, from scratch"


def trained(name: str = "resnet18", **values: object) -> Config:
    """Returns the config of a run with trained weights, with some other settings, `routing__routes=4` say."""
    model = ModelConfig(name=name, args={}, width=1.0, stem="standard", pretrained=True)
    config = Config(data=DataConfig(path="none"), model=model)
    return with_settings(config, {key.replace("__", "."): value for key, value in values.items()})


def test_routes_part_in_the_last_sixth() -> None:
    """Multiply-adds of a ResNet-18 at 224 pixels, in units of 57.8 million: the first conv 2, a block 4 (those that halve the
    resolution 3, of which the first conv has 1, and a ninth in their shortcut). Five sixths of 31.4 are done in the second conv
    of layer4."""
    before_layer4 = 2.04 + 8 + 2 * (7 + 1 / 9)
    total = before_layer4 + 7 + 1 / 9
    assert before_layer4 + 1 < total * 5 / 6 < before_layer4 + 3
    assert fill.fill_first_layer(trained(routing__routes=4), 224).routing.start == LATE


@pytest.mark.parametrize(
    ("settings", "start"),
    [
        ({"routing__routes": "task"}, LATE),
        ({"routing__sigma": 0.5}, LATE),
        ({"data__balance": 0.5}, LATE),
        ({"routing__strategy": "partition"}, LATE),
        ({}, ""),
        ({"routing__routes": "one", "routing__sigma": 0.5}, ""),
        ({"routing__routes": 4, "routing__sigma": 1.0}, ""),
        ({"routing__routes": 4, "routing__strategy": "magnitude"}, ""),
        ({"routing__routes": 4, "model__pretrained": False}, ""),
        ({"routing__routes": 4, "routing__start": ""}, ""),
        ({"routing__routes": 4, "routing__start": "layer2"}, "layer2"),
        ({"routing__layers": ["layer2"]}, ""),
        ({"routing__sigmas": {"layer2": 0.5}}, ""),
        ({"routing__sigma_last": 0.5}, ""),
    ],
    ids=str,
)
def test_where_routes_part_in_a_trained_network(settings: dict[str, object], start: str) -> None:
    """Late, unless no route lacks units, or the setting says which layers have how many, or measures which are not needed."""
    assert fill.fill_first_layer(trained(**settings), 224).routing.start == start


def test_several_routes_keep_nine_tenths_of_a_trained_network(small_set: ShardSet) -> None:
    def found(**settings: object) -> tuple[object, object]:
        config = with_settings(config_of(small_set, data__image_size=64, **settings), {"model.pretrained": True})
        run = resolved(fill_from_weights(config, None))
        assert ("layer" in run.lines[0]) == bool(run.config.routing.start), "the run says where routes part"
        return run.config.routing.sigma, run.config.routing.start

    assert found(routing__routes=2) == (0.9, LATE)
    assert found(routing__routes=2, routing__strategy="magnitude") == (0.9, "")
    assert found(routing__routes=2, routing__sigma=0.75) == (0.75, LATE)
    assert found() == (1.0, "")


def test_only_the_heads_of_routed_layers_have_to_split() -> None:
    """A Swin-T has 3, 6, 12 and 24 heads; of 3, no route could lack one tenth."""
    late = fill.fill_first_layer(trained("swin_t", routing__routes=4), 224)
    assert late.routing.start.startswith("features.7")
    assert fill.fit_usual_sigma(late) == 0.917
    everywhere = trained("swin_t", routing__routes=4, routing__strategy="magnitude")
    assert fill.fit_usual_sigma(everywhere) == 0.667, "with 1, no unit could be dropped"


def test_a_run_that_starts_with_a_network_has_its_first_layer() -> None:
    earlier = trained(routing__routes=4, routing__sigma=0.9, routing__start=LATE)
    config = replace(trained(routing__routes=4), model=ModelConfig())
    taken = fill.inherit(config, earlier, fill.keys_of_network(config))
    assert fill.fill_first_layer(taken, 224).routing.start == LATE
    older = read_saved({"routing": {"sigma": 0.9}})
    assert older.routing.start == "", "a version without the key routed all layers"
