"""A routed trunk as a description: its graph and layers in JSON, and the units behind the channels of each value.

The description holds no weights; with them, `build_trunk` makes the trunk again, without the library that its backbone came from.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from matl_scale.deploy.export.arguments import read_arguments
from matl_scale.deploy.hub.vocabulary import FUNCTIONS, INPUTS, METHODS, MODULE_NAME, LayerNorm2d
from matl_scale.errors import InputError
from matl_scale.routing.attention import InProjection, KeysWithoutBias
from matl_scale.routing.batch_norm import RouteBatchNorm2d
from matl_scale.routing.channelwise import BlurPool, SamePadding
from matl_scale.routing.layer_norms import RouteGroupNorm, RouteLayerNorm
from matl_scale.routing.router import TaskRouter
from matl_scale.vision import LayerNorm2d as TorchvisionLayerNorm2d
from matl_scale.vision import StochasticDepth

NAME_OF = {function: name for name, function in FUNCTIONS.items()}
REMEDY = "Use another format: safetensors, onnx or torch.export."


@dataclass(frozen=True, kw_only=True)
class TrunkDescription:
    """What `build_trunk` needs beside the weights."""

    nodes: list[dict[str, Any]]  # the operations, in order
    layers: dict[str, dict[str, Any]]  # by the names of the modules and parameters that the nodes use
    units: list[np.ndarray] = field(default_factory=list)  # of different values; nodes refer to them by index


def describe_trunk(trunk: fx.GraphModule) -> TrunkDescription:
    """Describes a trunk from `route()`.

    Raises:
        InputError: An operation or a layer has no description; names it.
    """
    indices: dict[fx.Node, int] = {}
    units: dict[bytes, int] = {}
    description = TrunkDescription(nodes=[], layers={})
    inputs = iter(INPUTS)
    for node in trunk.graph.nodes:
        target = next(inputs) if node.op == "placeholder" else name_target(node)
        entry: dict[str, Any] = {"op": node.op, "target": target}
        if node.op != "placeholder":
            entry |= {
                key: encode(value, indices, node) for key, value in (("args", node.args), ("kwargs", node.kwargs))
            }
        if node.op in ("call_module", "get_attr"):
            description.layers[target] = describe_layer(trunk, target)
        if (channels := node.meta.get("channels")) is not None:
            found = None
            if channels.units is not None:
                key = channels.units.tobytes()
                if key not in units:
                    units[key] = len(units)
                    description.units.append(channels.units)
                found = units[key]
            entry["channels"] = {"units": found, "dim": channels.dim, "pixels": channels.pixels}
        indices[node] = len(description.nodes)
        description.nodes.append(entry)
    return description


def name_target(node: fx.Node) -> str:
    if node.op == "call_function":
        name = NAME_OF.get(node.target) if callable(node.target) else None
    else:
        name = str(node.target)
        if (node.op == "call_method" and name not in METHODS) or not MODULE_NAME.fullmatch(name):
            name = None
    if name is None:
        raise InputError(f"This network cannot be written as a hub folder: it uses {node.op} {node.target}. {REMEDY}")
    return name


def encode(value: Any, indices: dict[fx.Node, int], node: fx.Node) -> Any:
    """Returns an argument of a node as JSON. Other nodes become their indices."""
    if isinstance(value, fx.Node):
        return {"node": indices[value]}
    if isinstance(value, slice):
        return {"slice": [encode(each, indices, node) for each in (value.start, value.stop, value.step)]}
    if isinstance(value, tuple):
        return {"tuple": [encode(each, indices, node) for each in value]}
    if isinstance(value, list):
        return [encode(each, indices, node) for each in value]
    if isinstance(value, dict):
        return {str(key): encode(each, indices, node) for key, each in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise InputError(
        f"This network cannot be written as a hub folder: {node.target} is given {type(value).__name__} {value}. {REMEDY}"
    )


def describe_layer(trunk: fx.GraphModule, name: str) -> dict[str, Any]:
    """Describes a module or parameter, by its kind and what builds it."""
    owner, _, last = name.rpartition(".")
    layer = getattr(trunk.get_submodule(owner), last)
    if isinstance(layer, nn.Parameter):
        return {"kind": "Parameter", "args": list(layer.shape), "kwargs": {}}
    if isinstance(layer, torch.Tensor):
        return {"kind": "Buffer", "args": list(layer.shape), "kwargs": {"is_index": not layer.is_floating_point()}}
    if isinstance(layer, InProjection):
        return {"kind": "InProjection", "args": [layer.in_features], "kwargs": {"bias": layer.bias is not None}}
    if isinstance(layer, KeysWithoutBias):
        sizes = [layer.in_features, layer.out_features]
        return {"kind": "KeysWithoutBias", "args": sizes, "kwargs": {"bias": layer.bias is not None}}
    if isinstance(layer, TaskRouter):
        return {"kind": "TaskRouter", "args": [], "kwargs": {"channel_dim": layer.channel_dim}}
    if isinstance(layer, RouteBatchNorm2d | RouteLayerNorm | RouteGroupNorm):
        return describe_norm(layer)
    if isinstance(layer, StochasticDepth):  # does nothing in evaluation mode
        return {"kind": "Identity", "args": [], "kwargs": {}}
    if isinstance(layer, SamePadding):
        value = layer.value if math.isfinite(layer.value) else str(layer.value)  # JSON has no infinity
        return {"kind": "SamePadding", "args": [layer.reach, layer.stride], "kwargs": {"value": value}}
    if isinstance(layer, BlurPool):
        return {
            "kind": "BlurPool",
            "args": [len(layer.weight[0, 0]), layer.stride, layer.padding, layer.mode],
            "kwargs": {},
        }
    if type(layer) is TorchvisionLayerNorm2d:
        return {"kind": LayerNorm2d.__name__, "args": list(layer.normalized_shape), "kwargs": {"eps": layer.eps}}
    found = read_arguments(layer)
    if found is None:
        raise InputError(f"This network cannot be written as a hub folder: layer `{name}` is {layer}. {REMEDY}")
    return {"kind": type(layer).__name__, "args": found.positional, "kwargs": found.named}


def describe_norm(norm: RouteBatchNorm2d | RouteLayerNorm | RouteGroupNorm) -> dict[str, Any]:
    kwargs: dict[str, Any] = {"num_channels": len(norm.weight), "eps": norm.eps, "affine_index": norm.affine_index}
    if isinstance(norm, RouteBatchNorm2d):
        kwargs |= {"momentum": norm.momentum, "statistics": norm.statistics}
    elif isinstance(norm, RouteLayerNorm):
        kwargs |= {"channel_dim": norm.channel_dim}
    else:
        kwargs |= {"num_groups": norm.num_groups}
    return {"kind": type(norm).__name__, "args": [], "kwargs": kwargs}
