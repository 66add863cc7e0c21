"""Readable Python for a dense network: a module that needs torch and safetensors alone and reads the weights beside it."""

import ast
import heapq
import inspect
from typing import Any

from torch import fx, nn

from matl_scale.deploy.export.description import Description
from matl_scale.deploy.export.layers import UnevenGroupNorm
from matl_scale.errors import InputError

TEMPLATE = '''"""A network for one image-classification task; its weights are in the file beside this one.

Needs torch and safetensors.
"""

{imports}

TASK = {task}
CLASSES = {classes}
IMAGE_SIZE = {image_size}
MEAN = {mean}
STD = {std}

{layers}
class Network(nn.Module):
    """Returns logits, shape `(batch, len(CLASSES))`.

    Takes RGB images, shape `(batch, 3, IMAGE_SIZE, IMAGE_SIZE)`, in 0 to 1, less MEAN, divided by STD.
    """

    def __init__(self):
        super().__init__()
        {init}

    def forward(self, images):
        {forward}


def load(path=None):
    """Returns the network with its weights, in evaluation mode; `path` if they are no longer beside this file."""
    network = Network().to({dtype})
    network.load_state_dict(load_file(path or Path(__file__).with_suffix(".safetensors")))
    return network.eval()
'''
IMPORTS = {
    "Path": "from pathlib import Path",
    "Sequence": "from collections.abc import Sequence",
    "torch": "import torch",
    "load_file": "from safetensors.torch import load_file",
    "nn": "from torch import nn",
    "functional": "from torch.nn import functional",
    # what torch.fx writes for values that have no literal
    "device": "from torch import device",
    "inf": "from math import inf",
    "nan": "from math import nan",
}


def write_source(network: fx.GraphModule, description: Description) -> str:
    """Returns the module's text.

    Raises:
        InputError: A layer cannot be written as Python; names it.
    """
    layers = ""
    if any(isinstance(module, UnevenGroupNorm) for module in network.modules()):
        layers = f"\n{inspect.getsource(UnevenGroupNorm)}\n"
    body: dict[str, Any] = {
        "task": repr(description.task),
        "classes": repr(list(description.classes)),
        "image_size": description.image_size,
        "mean": repr(list(description.mean)),
        "std": repr(list(description.std)),
        "dtype": next(network.parameters()).dtype,
        "layers": layers,
        "init": "\n        ".join(init_lines(network)),
        "forward": "\n        ".join(forward_lines(network)),
    }
    text = TEMPLATE.format(imports="", **body)
    used = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    return TEMPLATE.format(imports=import_lines(used), **body)


def import_lines(used: set[str]) -> str:
    lines = [line for name, line in IMPORTS.items() if name in used]
    standard = sorted(line for line in lines if not line.startswith(("import torch", "from torch", "from safetensors")))
    return "\n".join(standard) + "\n\n" + "\n".join(line for line in lines if line not in standard)


def init_lines(network: fx.GraphModule) -> list[str]:
    lines = [f"self.{name} = {constructor(name, module)}" for name, module in network.named_children()]
    for name, parameter in network.named_parameters(recurse=False):
        lines.append(f"self.{name} = nn.Parameter(torch.empty({list(parameter.shape)}))")
    for name, buffer in network.named_buffers(recurse=False):
        lines.append(f'self.register_buffer("{name}", torch.empty({list(buffer.shape)}, dtype={buffer.dtype}))')
    return lines


def constructor(name: str, module: nn.Module) -> str:
    """Returns the call that builds a module, from its attributes that are named like the arguments."""
    kind = type(module)
    is_known = kind is UnevenGroupNorm or getattr(nn, kind.__name__, None) is kind
    arguments = []
    for key, parameter in inspect.signature(kind).parameters.items():
        if key in ("device", "dtype") or parameter.kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD:
            continue
        value: Any = getattr(module, key, inspect)  # a module is no literal
        if key == "bias":
            value = value is not None
        elif kind is not UnevenGroupNorm and isinstance(value, tuple) and len(set(value)) == 1:
            value = value[0]  # as people write it
        if parameter.default is inspect.Parameter.empty:
            arguments.append(repr(value))
        elif value != parameter.default:
            arguments.append(f"{key}={value!r}")
        is_known = is_known and is_literal(value)
    if not is_known:
        raise InputError(
            f"This network cannot be written as Python: layer `{name}` is {module}. Use the format onnx or torch.export."
        )
    prefix = "" if kind is UnevenGroupNorm else "nn."
    return f"{prefix}{kind.__name__}({', '.join(arguments)})"


def is_literal(value: object) -> bool:
    try:
        return bool(ast.literal_eval(repr(value)) == value)
    except (ValueError, SyntaxError):
        return False


def forward_lines(network: fx.GraphModule) -> list[str]:
    """Returns the statements of `forward`, with few variables: one that is not read again is written again."""
    code = network.graph.python_code("self")
    function = next(node for node in ast.parse(code.src).body if isinstance(node, ast.FunctionDef))
    names = {node.name: variable for node, variable in variables(network.graph).items()}
    lines = []
    for statement in function.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant):
            continue  # how torch.fx frees memory
        for part in ast.walk(statement):
            if isinstance(part, ast.Name) and part.id in code.globals and part.id not in IMPORTS:
                raise InputError(
                    f"This network cannot be written as Python: `{ast.unparse(statement)}`. Use the format onnx or torch.export."
                )
            if isinstance(part, ast.Name) and part.id not in code.globals:
                part.id = names.get(part.id, part.id)
        lines.append(ast.unparse(statement))
    return lines


def variables(graph: fx.Graph) -> dict[fx.Node, str]:
    """Returns a variable for every value; values that are not needed at the same time share one."""
    names = [*"xyz", *(f"x{number}" for number in range(3, len(graph.nodes)))]
    unread = {node: len(node.users) for node in graph.nodes}
    free = list(range(len(names)))
    taken: dict[fx.Node, int] = {}
    for node in graph.nodes:
        if node.op in ("placeholder", "output"):
            continue
        for source in node.all_input_nodes:
            unread[source] -= 1
            if unread[source] == 0 and source in taken:
                heapq.heappush(free, taken[source])
        taken[node] = heapq.heappop(free)
    return {node: names[number] for node, number in taken.items()}
