"""timm, where it is installed: its names, its models as backbones, and its optimizers. Import timm through this module, never
directly."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlparse

from torch import fx, nn

import matl_scale.vision  # noqa: F401 (timm imports torchvision, which fails beside a CPU build of torch without this)
from matl_scale.errors import InputError, nearest, one_line
from matl_scale.extras import require
from matl_scale.models.from_timm import PREFIX
from matl_scale.routing.tracing import build_graph, find_image_size


def load_timm(purpose: str) -> Any:
    """Imports timm. Raises `InputError`, which begins with `purpose`, if it is not installed."""
    require("timm", "timm", purpose=purpose)
    import timm
    import timm.optim

    return timm


def check_timm_name(name: str) -> None:
    """Raises `InputError` if timm has no model of that name, or is not installed."""
    timm = load_timm(f"`model.name` = {name}")
    known = timm.list_models()
    if name.removeprefix(PREFIX) not in known:
        raise InputError(
            f"`model.name` should be {PREFIX} and the name of a timm model, without a tag of weights. Got {name!r}."
            + nearest(name.partition(".")[0], [PREFIX + each for each in known])
        )


def timm_defaults(name: str) -> Any:
    """Returns what timm says of the default weights of one of its models, as an entry of its registry."""
    return load_timm(f"`model.name` = {name}").get_pretrained_cfg(name.removeprefix(PREFIX))


def find_timm_file(file_name: str) -> Any:
    """Returns the entry in timm's registry of the weights that it keeps in a file of this name; None if there are none."""
    timm = load_timm("This search")
    entries = (timm.get_pretrained_cfg(name) for name in timm.list_pretrained())
    return next((entry for entry in entries if PurePosixPath(urlparse(entry.url or "").path).name == file_name), None)


def build_timm(name: str, args: Mapping[str, Any]) -> nn.Module:
    """Builds a timm model with its classifier, with freshly drawn weights; `args` are those of its constructor.

    Raises:
        InputError: timm is not installed, or cannot build it.
    """
    timm = load_timm(f"`model.name` = {name}")
    try:
        model: nn.Module = timm.create_model(name.removeprefix(PREFIX), **args)
    except Exception as error:  # timm's models raise errors of many kinds
        given = f" with `model.args` = {args}" if args else ""
        raise InputError(f"`model.name` = {name}: timm cannot build it{given}: {one_line(error)}.") from error
    return model


def remove_timm_classifier(model: nn.Module, name: str) -> None:
    """Leaves pooled features. The classifier's dropout is removed too.

    Raises:
        InputError: The model has no classifier.
    """
    timm_model: Any = model
    if not hasattr(model, "reset_classifier"):
        raise InputError(f"`model.name` = {name}: it has no classifier to replace by task heads.")
    timm_model.reset_classifier(0)
    if hasattr(model, "drop_rate"):
        timm_model.drop_rate = 0.0


def build_timm_graph(model: nn.Module) -> fx.GraphModule:
    """Returns the graph of a timm model up to its features, of torch's own layers, which routing can follow. Takes over the
    model's layers: the model itself cannot be used any more.

    Raises:
        InputError: torch.fx cannot trace it. Names the module.
    """
    from matl_scale.models.from_timm.layers import Layers  # need timm, which only its models need
    from matl_scale.models.from_timm.tracer import TimmTracer

    size, layers = find_image_size(model), Layers(model)
    return build_graph(model, TimmTracer(layers, size))
