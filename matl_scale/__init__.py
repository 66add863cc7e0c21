"""One network, hundreds of image-classification tasks, by task routing.

The public names below are imported on first use, so that `data_prep` and `--help` do not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers, which do not see what `__getattr__` imports
    from matl_scale.data.shards.manifest import Manifest as Manifest
    from matl_scale.deploy.hub.load import load as load
    from matl_scale.errors import InputError as InputError
    from matl_scale.models.network import RoutedModel as RoutedModel
    from matl_scale.routing.masks import MaskSpec as MaskSpec
    from matl_scale.routing.masks import draw_masks as draw_masks
    from matl_scale.routing.router import TaskRouter as TaskRouter
    from matl_scale.routing.subnetwork import Subnetwork as Subnetwork
    from matl_scale.routing.surgery import route as route
    from matl_scale.tasks import Task as Task

__version__ = "0.1.0"

_PUBLIC = {
    "MaskSpec": "matl_scale.routing.masks",
    "RoutedModel": "matl_scale.models.network",
    "Subnetwork": "matl_scale.routing.subnetwork",
    "TaskRouter": "matl_scale.routing.router",
    "draw_masks": "matl_scale.routing.masks",
    "route": "matl_scale.routing.surgery",
    "Manifest": "matl_scale.data.shards.manifest",
    "Task": "matl_scale.tasks",
    "load": "matl_scale.deploy.hub.load",
    "InputError": "matl_scale.errors",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
