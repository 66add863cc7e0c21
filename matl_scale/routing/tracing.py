"""From a backbone's code to a graph: torch.fx follows its forward pass, and a pass without values finds every shape."""

import contextlib
import copy
import io
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from matl_scale.errors import InputError, first_line
from matl_scale.routing.channelwise import BlurPool, SamePadding
from matl_scale.vision import StochasticDepth

EXAMPLE_PIXELS = 320  # large enough for every torchvision CNN; of the shapes only channel counts matter
INPUT_SHAPE = (
    "matl_scale.input_shape"  # in a routed trunk's own `meta`: that of an input that is no image; None for images
)
TRACED = "matl_scale.traced"  # in a graph module's own `meta`: `build_graph` made it


class BackboneTracer(fx.Tracer):
    """Does not trace into convs, linear layers and norms, of any subclass, because routers follow them; nor into stochastic
    depth, which would stay switched on in evaluation mode if it were traced.

    Attributes:
        failed: The name of the innermost module whose code could not be traced; empty if there is none.
    """

    WHOLE = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm, StochasticDepth, SamePadding, BlurPool)

    def __init__(self) -> None:
        super().__init__()
        self.failed = ""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, self.WHOLE) or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed = self.failed or self.path_of_module(m)
            raise


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
    traced.meta[TRACED] = True
    return traced


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


def trace(backbone: nn.Module, input_shape: tuple[int, ...] | None = None) -> fx.GraphModule:
    """Traces a copy of `backbone`, unless it is a graph already, and records the shape of every node's value. Its inputs have
    `input_shape`, without the batch; None are images.

    Raises:
        InputError: It cannot be traced, or does not run.
    """
    root = copy.deepcopy(backbone)
    traced = isinstance(root, fx.GraphModule) and root.meta.get(TRACED, False)
    graph_module = root if traced else build_graph(root, BackboneTracer())
    assert isinstance(graph_module, fx.GraphModule)
    has_values = any(not parameter.is_meta for parameter in graph_module.parameters())
    on_meta = copy.deepcopy(graph_module).to("meta", torch.float32) if has_values else graph_module
    finder = ShapeFinder(on_meta)
    try:
        shape = input_shape or (3, EXAMPLE_PIXELS, EXAMPLE_PIXELS)
        finder.propagate(torch.empty(2, *shape, device="meta", dtype=torch.float32))
    except Exception as error:
        inside = f"module `{module_around(finder.failed)}`: " if finder.failed else ""
        raise InputError(
            f"This backbone cannot be routed: {inside}it does not run on {EXAMPLE_PIXELS}-pixel images: "
            f"{first_line(error.__cause__ or error).rstrip('.')}."
        ) from error
    for node, twin in zip(graph_module.graph.nodes, on_meta.graph.nodes, strict=True):
        node.meta.update(twin.meta)
    return graph_module
