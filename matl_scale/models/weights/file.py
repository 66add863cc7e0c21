"""Reads a file of weights: safetensors, what `torch.save` wrote, or the folder in which a model hub lays one out.

Of what `torch.save` wrote, only tensors and plain values are read (`weights_only`): nothing in a file is run.
"""

import argparse
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from matl_scale.automatic import AUTO
from matl_scale.errors import InputError, first_line
from matl_scale.storage.files import file_sha256

HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # the names that model hubs give the weights in a folder
HUB_CONFIG = "config.json"
# in torch's messages about what it will not run
UNSAFE = re.compile(r"Unsupported (?:global|class): GLOBAL (\S+)|Unsupported class|TorchScript")
WRONG = re.compile(r"WeightsUnpickler error: (.+)")  # and about what is no pickle of tensors
# where training scripts (torchvision's, timm's, Lightning's and others) keep the network in a checkpoint; averages come first,
# because they are what such scripts evaluate
AVERAGES = ("model_ema", "state_dict_ema", "ema_state_dict", "ema")
TEACHER = "teacher"  # an average of the network, or another network that it learns from
CONTAINERS = (
    *AVERAGES, "state_dict", "model_state_dict", "model_state", "model", TEACHER, "network", "net", "weights", "params",
)  # fmt: skip


@dataclass(frozen=True)
class StoredWeights:
    """The content of a file of weights."""

    path: Path  # the file itself
    tensors: Mapping[str, torch.Tensor]  # by the names that they have in the file
    texts: Mapping[str, Any]  # what the file, or the hub's config beside it, says of the weights
    container: str  # the part of a checkpoint that they are, as `model_ema`; empty if they are all of the file


def find_weights_file(path: str) -> Path:
    """Returns the file that `model.weights` names: itself, or that in a hub's folder.

    Raises:
        InputError: There is none.
    """
    given = Path(path)
    found = [given / name for name in HUB_FILES if (given / name).is_file()] if given.is_dir() else [given]
    if not found:
        raise InputError(
            f"`model.weights`: the folder {given} holds neither {' nor '.join(HUB_FILES)}. Give the path of a file of weights. "
            "(For a network that this project has trained, there is `run.start_from`.)"
        )
    if not found[0].is_file():
        raise InputError(f"`model.weights`: there is no file {given}. Check the path; nothing is downloaded.")
    return found[0]


def check_sha256(path: str, expected: str) -> None:
    """Raises `InputError` if the file that `model.weights` names is not there, or has another SHA-256 than `expected`; `auto`
    expects none."""
    file = find_weights_file(path)
    if expected != AUTO and (found := file_sha256(file)) != expected:
        raise InputError(
            f"`model.weights`: {file} is another file than `model.weights_sha256` says: its SHA-256 is {found}, not {expected}. "
            "Give the right file, or leave `model.weights_sha256` at auto."
        )


def read_weights(path: str) -> StoredWeights:
    """Reads the file that `model.weights` names.

    Raises:
        InputError: It cannot be read, holds no weights, or would need code to be run.
    """
    file = find_weights_file(path)
    described = read_hub_config(file)
    if str(described.get("format", "")).startswith("matl_scale "):  # written by `matl-export --format hub`
        raise InputError(
            f"`model.weights`: {file.parent} is a routed network of this project, with masks, statistics and heads, and no plain "
            "backbone. Use `run.start_from` with the run that the folder was exported from."
        )
    try:
        with file.open("rb") as stream:
            is_safetensors = stream.read(9)[8:] == b"{"  # behind the length of its header
        content, texts = read_safetensors(file) if is_safetensors else (read_pickled(file), {})
    except OSError as error:
        raise InputError(f"`model.weights`: {file} cannot be read: {error.strerror or first_line(error)}.") from error
    tensors, container = find_tensors(content)
    if not tensors:
        raise InputError(
            f"`model.weights`: {file} holds no weights by name. Save a network's `state_dict()`, as safetensors or with "
            "torch.save."
        )
    return StoredWeights(path=file, tensors=tensors, texts=texts | described, container=container)


def read_safetensors(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Returns the tensors of a safetensors file, and its metadata, read as JSON where they are."""
    try:
        with safe_open(file, "pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            return tensors, {key: read_json(text) for key, text in (opened.metadata() or {}).items()}
    except SafetensorError as error:
        raise InputError(
            f"`model.weights`: {file} is damaged or cut off: {first_line(error)}. Copy or download it again."
        ) from error


def read_pickled(file: Path) -> Any:
    """Returns what `torch.save` wrote into a file."""
    try:
        # the settings that timm's training script keeps beside the weights; it has attributes and no code
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of TorchScript files, which are refused
            return torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch raises errors of many kinds for what is no such file
        if unsafe := UNSAFE.search(str(error)):
            named = f" (it names {unsafe[1]})" if unsafe[1] else ""
            raise InputError(
                f"`model.weights`: {file} needs code to be run to be read{named}, and files of weights are not run here. Where "
                "you trust it, load it, and save its `state_dict()` as safetensors, or with torch.save."
            ) from error
        wrong = WRONG.search(str(error))
        raise InputError(
            f"`model.weights`: {file} is no file of weights, or damaged: {wrong[1] if wrong else first_line(error)}. It "
            "should be safetensors, or what torch.save writes of a `state_dict()`."
        ) from error


def find_tensors(content: Any, within: str = "") -> tuple[dict[str, torch.Tensor], str]:
    """Returns the tensors of a state dict by name, and in which part of a checkpoint they were."""
    if not isinstance(content, Mapping):
        return {}, within
    for name in CONTAINERS:
        if isinstance(content.get(name), Mapping):
            tensors, found = find_tensors(content[name], name)
            if tensors:
                teacher, _ = find_tensors(content.get(TEACHER))
                is_average = name not in AVERAGES and shapes_of(teacher) == shapes_of(tensors)
                return (teacher, TEACHER) if is_average else (tensors, found)
    return {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}, within


def read_hub_config(file: Path) -> dict[str, Any]:
    """Returns what the hub's config beside a file says; empty if the file is not called as in a hub's folder, or has none."""
    path = file.parent / HUB_CONFIG
    if file.name not in HUB_FILES or not path.is_file():
        return {}
    content = read_json(path.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}


def read_json(text: str) -> Any:
    """Returns what a text says as JSON, or the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def shapes_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}
