"""Writes a dense network in one of three formats, atomically, and reads such files.

| format | files | needs, to run |
| --- | --- | --- |
| `safetensors` | `NAME.safetensors` and `NAME.py` | torch, safetensors |
| `onnx` | `NAME.onnx` | any ONNX runtime |
| `torch.export` | `NAME.pt2` | torch |

All accept any number of images and carry the network's `Description`. They return logits, or what else that asks for;
with several tasks, a tuple of them.
"""

import io
import json
import runpy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import fx, nn

from matl_scale.deploy.export.description import Description, Format
from matl_scale.deploy.export.outputs import end_with
from matl_scale.deploy.export.source import write_source
from matl_scale.errors import InputError
from matl_scale.extras import require
from matl_scale.models.network import count_bytes
from matl_scale.storage.files import write_atomic, write_text

SUFFIXES: dict[Format, str] = {"safetensors": ".safetensors", "onnx": ".onnx", "torch.export": ".pt2"}
NEEDED: dict[Format, tuple[str, ...]] = {"onnx": ("onnx", "onnxscript", "onnxruntime")}
DESCRIPTION_FILE = "description.json"  # in a .pt2
MAX_ONNX_BYTES = 2**31 - 2**20  # what protobuf can write, with room for the graph
Network = Callable[[torch.Tensor], torch.Tensor | tuple[torch.Tensor, ...]]


def write_network(network: fx.GraphModule, description: Description, stem: Path, kind: Format) -> Path:
    """Writes a network from `dense_network`, with the output that the description asks for, to the path `stem` with the suffix
    of its format. Returns the path.

    Raises:
        InputError: A package is not installed, or a layer has no counterpart in the format.
    """
    check_format(kind)
    path = stem.with_name(stem.name + SUFFIXES[kind])
    writers = {"safetensors": write_safetensors, "onnx": write_onnx, "torch.export": write_torch_export}
    writers[kind](end_with(network, description.rules.rules, description.output), description, path)
    return path


def write_safetensors(network: fx.GraphModule, description: Description, path: Path) -> None:
    """Writes the weights, and beside them the Python module that loads them."""
    from safetensors.torch import save

    write_text(path.with_suffix(".py"), write_source(network, description))
    write_bytes(path, save(network.state_dict(), description.texts()))


def write_torch_export(network: nn.Module, description: Description, path: Path) -> None:
    """Writes the program that `torch.export.load` reads."""
    images, shapes = example(network, description)
    program = torch.export.export(network, (images,), dynamic_shapes=shapes)
    program.example_inputs = None  # otherwise part of the file
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths on this machine
    buffer = io.BytesIO()
    extra = {DESCRIPTION_FILE: json.dumps(description.content(), ensure_ascii=False)}
    torch.export.save(program, buffer, extra_files=extra)
    write_bytes(path, buffer.getvalue())


def write_onnx(network: nn.Module, description: Description, path: Path) -> None:
    """Writes the graph for ONNX runtimes; its input is `images`, its outputs, one per task, have the description's names."""
    import onnx

    num_bytes = count_bytes(network)
    if num_bytes > MAX_ONNX_BYTES:
        raise InputError(
            f"The weights for {path.name} are {num_bytes / 1e9:.3g} GB, and one ONNX file holds {MAX_ONNX_BYTES / 1e9:.3g} GB. "
            "Use the format safetensors or torch.export, or export fewer routes per file."
        )
    images, shapes = example(network, description)
    with warnings.catch_warnings():
        # raised by torch itself
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
        program = torch.onnx.export(
            network,
            (images,),
            dynamic_shapes=shapes,
            dynamo=True,
            input_names=["images"],
            output_names=list(description.outputs),
            external_data=False,
            verbose=False,
        )
    model = cast(torch.onnx.ONNXProgram, program).model_proto
    for item in (*model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output):
        del item.metadata_props[:]  # names in PyTorch, and paths on this machine
    onnx.helper.set_model_props(model, description.texts())
    write_bytes(path, model.SerializeToString())


def example(network: nn.Module, description: Description) -> tuple[torch.Tensor, dict[str, Any]]:
    """Returns images to trace a network with, and a mark that their number may vary."""
    weight = next(network.parameters())
    size = description.image_size
    # two images: torch would take a batch of one for a constant
    images = torch.zeros(2, 3, size, size, dtype=weight.dtype, device=weight.device)
    return images, {"images": {0: torch.export.Dim("batch")}}


def check_format(kind: Format) -> None:
    """Raises `InputError` unless the packages that the format needs are installed."""
    require("export", *NEEDED.get(kind, ()), purpose=f"The format {kind}")


def write_bytes(path: Path, content: bytes) -> None:
    write_atomic(path, lambda partial: partial.write_bytes(content))


def open_exported(path: Path) -> Network:
    """Reads a file that `write_network` wrote; for safetensors this runs the Python module beside it. Returns a function from
    images, shape `(batch, 3, height, width)`, to what its description says; with several tasks, to a tuple of that."""
    if path.suffix == ".pt2":
        return cast(Network, torch.export.load(path).module())
    if path.suffix == ".onnx":
        return open_onnx(path)
    return cast(Network, runpy.run_path(str(path.with_suffix(".py")))["load"](path))


def open_onnx(path: Path) -> Network:
    check_format("onnx")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(images: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        outputs = tuple(torch.from_numpy(array) for array in session.run(None, {"images": images.numpy()}))
        return outputs[0] if len(outputs) == 1 else outputs

    return run
