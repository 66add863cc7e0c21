"""From a backbone's code to a graph: torch.fx follows its forward pass, and a pass without values finds every shape."""

import contextlib
import copy
import inspect
import io
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from matl_scale.errors import InputError, first_line
from matl_scale.routing.attention import HeadAttention
from matl_scale.routing.attention_forms import TORCH_FORMS, Forms
from matl_scale.routing.channelwise import BlurPool, SamePadding
from matl_scale.routing.sized_tracing import SizedTracer
from matl_scale.routing.window_attention import NeighbourGather, WindowMerge, WindowSplit
from matl_scale.vision import StochasticDepth

EXAMPLE_PIXELS = 320  # large enough for every torchvision CNN; of the shapes only channel counts matter there
# in a routed trunk's own `meta`: the shape of an input that is no image; None for images
INPUT_SHAPE = "matl_scale.input_shape"
TRACED = "matl_scale.traced"  # in a graph module's own `meta`: `build_graph` made it
IMAGE_SIZE = "matl_scale.image_size"  # likewise: the only size of images, in pixels, that the graph takes; None for any


class BackboneTracer(SizedTracer):
    """Does not trace into convs, linear layers and norms, of any subclass, because routers follow them; nor into stochastic
    depth, which would stay switched on in evaluation mode if it were traced. Attention is traced by its form.

    Attributes:
        failed: The name of the innermost module whose code could not be traced; empty if there is none.
    """

    WHOLE = (
        nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm, StochasticDepth, SamePadding, BlurPool, HeadAttention,
        WindowSplit, WindowMerge, NeighbourGather,
    )  # fmt: skip
    FORMS: Forms = TORCH_FORMS

    def __init__(self, image_size: int | None = None) -> None:
        super().__init__(image_size)
        self.failed = ""

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        for module in list(root.modules()):
            if form := self.FORMS.get(type(module)):
                form.prepare(module)
        take_images_alone(root)
        return super().trace(root, concrete_args)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) not in self.FORMS and (
            isinstance(m, self.WHOLE) or super().is_leaf_module(m, module_qualified_name)
        )

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        form = None if self.is_running else self.FORMS.get(type(m))
        try:
            return super().call_module(m, partial(form.run, self, m) if form else forward, args, kwargs)
        except Exception:
            self.failed = self.failed or self.path_of_module(m)
            raise


def take_images_alone(root: nn.Module) -> None:
    """Leaves optional arguments of a network's `forward` at their defaults, in place: in a graph they would be inputs."""
    kind = type(root)
    if len(inspect.signature(kind.forward).parameters) > 2:
        root.__class__ = type(kind.__name__, (kind,), {"forward": lambda self, images: kind.forward(self, images)})


def build_graph(root: nn.Module, tracer: BackboneTracer) -> fx.GraphModule:
    """Returns a module with the graph of `root`, its modules and their names. Names and modules are those of `root`, not copies.

    Raises:
        InputError: Its code cannot be traced. Names the module.
    """
    try:
        graph = tracer.trace(root)
    except Exception as error:  # torch.fx raises whatever the traced code raises
        inside = f"module `{tracer.failed}`" if tracer.failed else f"{type(root).__name__}.forward"
        raise InputError(
            f"This backbone cannot be routed: {inside}: torch.fx cannot trace it: {first_line(error).rstrip('.')}."
        ) from error
    traced = fx.GraphModule(root, graph, type(root).__name__)
    if traced.graph.eliminate_dead_code():
        traced.recompile()
    traced.meta.update({TRACED: True, IMAGE_SIZE: tracer.image_size})
    return traced


def find_image_size(backbone: Any) -> int | None:
    """Returns the size in pixels of the images that a backbone is built for, as transformers with position embeddings are; None
    if it takes images of any size."""
    if isinstance(backbone, fx.GraphModule):
        return cast(int | None, backbone.meta.get(IMAGE_SIZE))
    size = getattr(backbone, "image_size", None)  # torchvision
    if size is None:
        size = getattr(getattr(backbone, "patch_embed", None), "img_size", None)  # timm
    sizes = {size} if isinstance(size, int) else set(size or ())
    return sizes.pop() if len(sizes) == 1 else None


class ShapeFinder(ShapeProp):
    """Runs a graph on the meta device, and records shapes.

    Attributes:
        failed: The node that does not run; None if there is none.
    """

    # they return what they are given, in shape; torch takes most of the time for batch norms
    SHAPE_STAYS = (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm, nn.ReLU, nn.SiLU, nn.Identity)

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.failed: fx.Node | None = None

    def run_node(self, n: fx.Node) -> Any:
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # ShapeProp prints a trace when a node fails
                return super().run_node(n)
        except Exception:
            self.failed = self.failed or n
            raise

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        if type(self.fetch_attr(target)) in self.SHAPE_STAYS:
            return args[0]
        return super().call_module(target, args, kwargs)


def module_around(node: fx.Node) -> str:
    """Returns the name of the module that a node calls, or in whose code it is; the node's own name if that is unknown."""
    if node.op == "call_module":
        return str(node.target)
    return next(reversed(list(node.meta.get("nn_module_stack") or {})), "") or node.name


def trace_graph(backbone: nn.Module) -> fx.GraphModule:
    """Returns the graph of a backbone, which is itself if it is one already. Takes over its layers.

    Raises:
        InputError: It cannot be traced.
    """
    if isinstance(backbone, fx.GraphModule) and backbone.meta.get(TRACED, False):
        return backbone
    return build_graph(backbone, BackboneTracer(find_image_size(backbone)))


def trace(backbone: nn.Module, input_shape: tuple[int, ...] | None = None) -> fx.GraphModule:
    """Traces a copy of `backbone`, unless it is a graph already, and records the shape of every node's value. Its inputs have
    `input_shape`, without the batch; None are images.

    Raises:
        InputError: It cannot be traced, or does not run.
    """
    graph_module = trace_graph(copy.deepcopy(backbone))
    size = find_image_size(graph_module) or EXAMPLE_PIXELS
    has_values = any(not parameter.is_meta for parameter in graph_module.parameters())
    on_meta = copy.deepcopy(graph_module).to("meta", torch.float32) if has_values else graph_module
    finder = ShapeFinder(on_meta)
    try:
        finder.propagate(torch.empty(2, *(input_shape or (3, size, size)), device="meta", dtype=torch.float32))
    except Exception as error:
        inside = f"module `{module_around(finder.failed)}`: " if finder.failed else ""
        raise InputError(
            f"This backbone cannot be routed: {inside}it does not run on {size}-pixel images: "
            f"{first_line(error.__cause__ or error).rstrip('.')}."
        ) from error
    for node, twin in zip(graph_module.graph.nodes, on_meta.graph.nodes, strict=True):
        node.meta.update(twin.meta)
    return graph_module
