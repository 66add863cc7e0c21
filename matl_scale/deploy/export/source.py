"""Readable Python for a dense network: a module that needs torch and safetensors alone and reads the weights beside it.

`forward` is the code that torch.fx prints for the network's graph; only the lines that build its layers are written here.
"""

import ast
import inspect
import textwrap
from typing import Any

from torch import fx, nn

from matl_scale.deploy.export.arguments import read_arguments
from matl_scale.deploy.export.description import Description
from matl_scale.deploy.export.layers import OWN_LAYERS
from matl_scale.deploy.export.task_texts import describe_tasks
from matl_scale.errors import InputError

TEMPLATE = '''"""A network for {purpose}; its weights are in the file beside this one.

Needs torch and safetensors.

{use}
"""

{imports}

{tasks}
IMAGE_SIZE = {image_size}
FIT = {fit!r}  # how images of another shape became squares: crop (the middle), squash or pad
MEAN = {mean}
STD = {std}

{layers}
class Network(nn.Module):
    """Returns {returned}.

    Takes RGB images, shape `(batch, 3, IMAGE_SIZE, IMAGE_SIZE)`, scaled to 0 to 1, minus MEAN, divided by STD.
    """

    def __init__(self):
        super().__init__()
{init}

{forward}


def load(path=None):
    """Returns the network with its weights, in evaluation mode; `path` if they are no longer beside this file."""
    network = Network().to({dtype})
    network.load_state_dict(load_file(path or Path(__file__).with_suffix(".safetensors")))
    return network.eval()
'''
IMPORTS = """
from collections.abc import Sequence
from math import inf, nan
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import device, nn
from torch.nn import functional
"""  # inf, nan and device: torch.fx prints values by these names


def write_source(network: fx.GraphModule, description: Description) -> str:
    """Returns the module's text.

    Raises:
        InputError: A layer cannot be written as Python; names it.
    """
    body: dict[str, Any] = {
        **describe_tasks(description),
        "image_size": description.image_size,
        "fit": description.fit,
        "mean": repr(list(description.mean)),
        "std": repr(list(description.std)),
        "dtype": next(network.parameters()).dtype,
        "layers": write_layers(network),
        "init": textwrap.indent("\n".join(init_lines(network)), " " * 8),
        "forward": textwrap.indent(network.code.strip(), " " * 4),
    }
    return TEMPLATE.format(imports=import_lines(TEMPLATE.format(imports="", **body)), **body)


def write_layers(network: nn.Module) -> str:
    """Returns the code of the layers of a network that are none of torch's, with what it needs."""
    needed: dict[Any, None] = {}
    for kind in dict.fromkeys(type(module) for module in network.modules()):
        if kind in OWN_LAYERS:
            needed |= dict.fromkeys((*OWN_LAYERS[kind], kind))
    return "".join(f"\n{inspect.getsource(each)}\n" for each in needed)


def import_lines(text: str) -> str:
    """Returns the imports that a module's text needs."""
    used = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    lines = []
    for line in IMPORTS.strip().splitlines():
        start, _, names = line.rpartition("import ")
        needed = [name for name in names.split(", ") if name in used]
        if needed or not line:
            lines.append(f"{start}import {', '.join(needed)}" if line else line)
    return "\n".join(lines)


def init_lines(network: fx.GraphModule) -> list[str]:
    lines = [f"self.{name} = {constructor(name, module)}" for name, module in network.named_children()]
    for name, parameter in network.named_parameters(recurse=False):
        lines.append(f"self.{name} = nn.Parameter(torch.empty({list(parameter.shape)}))")
    for name, buffer in network.named_buffers(recurse=False):
        lines.append(f'self.register_buffer("{name}", torch.empty({list(buffer.shape)}, dtype={buffer.dtype}))')
    return lines


def constructor(name: str, module: nn.Module) -> str:
    """Returns the call that builds a layer."""
    found = read_arguments(module)
    if found is None:
        raise InputError(
            f"This network cannot be written as Python: layer `{name}` is {module}. Use the format onnx or torch.export."
        )
    arguments = [repr(value) for value in found.positional]
    arguments += [f"{key}={value!r}" for key, value in found.named.items()]
    prefix = "" if type(module) in OWN_LAYERS else "nn."
    return f"{prefix}{type(module).__name__}({', '.join(arguments)})"
