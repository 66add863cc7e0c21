"""Which of torchvision's and timm's models can be routed: each is built without weights, routed, and cut to a sub-network."""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from matl_scale.errors import InputError
from matl_scale.extras import is_installed
from matl_scale.models.backbones import build_backbone_outline
from matl_scale.models.config import ModelConfig
from matl_scale.models.from_timm import PREFIX, is_timm
from matl_scale.models.from_timm.library import load_timm
from matl_scale.routing.heads import fit_sigma
from matl_scale.routing.subnetwork import Subnetwork
from matl_scale.routing.surgery import route
from matl_scale.vision import models

NUM_ROUTES = 3  # of several, so that layers where routes keep different numbers of channels are found
SIGMA = 0.75


@dataclass(frozen=True, kw_only=True)
class ListedBackbone:
    """What is known of a model."""

    name: str  # as in `model.name`
    source: str  # torchvision or timm
    routed: bool  # whether it can be routed, with masked execution at least
    subnetwork: bool  # whether with sub-network execution
    reason: str  # why not; empty if both


def list_names() -> list[str]:
    """Returns the names of all models of torchvision and, where it is installed, timm."""
    names = list(models.list_models(module=models))
    if is_installed("timm"):
        names += [PREFIX + name for name in load_timm("This list").list_models()]
    return names


def examine_all(names: Iterable[str]) -> Iterator[ListedBackbone]:
    """Yields what is known of each model, one after the other: a big one takes seconds."""
    for name in names:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the libraries, about models that nobody has asked for
            yield examine(name)


def examine(name: str) -> ListedBackbone:
    """Routes one model at its standard width."""
    source = "timm" if is_timm(name) else "torchvision"
    routed = False
    try:
        outline = build_backbone_outline(ModelConfig(name=name, width=1.0, stem="standard"), seed=0)
        outline = outline.to("meta", torch.float32)
        trunk = route(outline, NUM_ROUTES, fit_sigma(outline, SIGMA))
        routed = True
        Subnetwork(trunk)
    except InputError as error:
        return ListedBackbone(name=name, source=source, routed=routed, subnetwork=False, reason=str(error))
    return ListedBackbone(name=name, source=source, routed=True, subnetwork=True, reason="")
