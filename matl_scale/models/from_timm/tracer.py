"""Traces a timm model whose layers have been replaced by torch's own."""

from collections.abc import Callable
from typing import Any

from torch import nn

from matl_scale.models.from_timm.attention import TIMM_FORMS
from matl_scale.models.from_timm.layers import Layers
from matl_scale.routing.tracing import BackboneTracer


class TimmTracer(BackboneTracer):
    """Puts before and behind each layer what else the layer did that it replaces."""

    FORMS = TIMM_FORMS

    def __init__(self, layers: Layers, image_size: int | None) -> None:
        super().__init__(image_size)
        self.before, self.behind = layers.before, layers.behind

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if self.is_running:
            return super().call_module(m, forward, args, kwargs)
        if m in self.before:
            args = (self.before[m](*args),)
        result = super().call_module(m, forward, args, kwargs)
        return self.behind[m](result) if m in self.behind else result
