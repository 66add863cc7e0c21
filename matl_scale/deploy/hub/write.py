"""Writes a run's network as a hub folder, reads it back, and compares it with the run's network task by task."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from matl_scale.decisions.rule import DecisionRule
from matl_scale.decisions.table import Decisions
from matl_scale.deploy.export.export_run import NUM_IMAGES, Comparison, Exported, compare
from matl_scale.deploy.export.formats import write_bytes
from matl_scale.deploy.hub.describe_trunk import describe_trunk
from matl_scale.deploy.hub.layout import CARD_FILE, CONFIG_FILE, FORMAT, FORMAT_VERSION, UNITS_PREFIX, WEIGHTS_FILE
from matl_scale.deploy.hub.load import RULE_FIELDS, load
from matl_scale.errors import InputError, reason_of
from matl_scale.models.network import RoutedModel, count_bytes
from matl_scale.models.predictor import Predictor
from matl_scale.runs.about import PACKAGE, installed_packages
from matl_scale.runs.checkpoints.checkpoint import CheckpointInfo
from matl_scale.runs.checkpoints.decisions import open_decisions
from matl_scale.runs.checkpoints.network import NetworkConfig, open_network, restore_network
from matl_scale.storage.files import file_sha256, write_json, write_text


@dataclass(frozen=True, kw_only=True)
class SharedNetwork:
    """A run's network, with what a hub folder says of it."""

    checkpoint: CheckpointInfo
    config: NetworkConfig
    decisions: Decisions
    model: RoutedModel  # in evaluation mode

    @classmethod
    def open(cls, run: Path, which: str = "best") -> "SharedNetwork":
        """Opens a network of a run, or a checkpoint by itself, as `open_network` does."""
        checkpoint = open_network(run, which)
        return cls(
            checkpoint=checkpoint,
            config=NetworkConfig.read(checkpoint.config),
            decisions=open_decisions(checkpoint),
            model=restore_network(checkpoint, torch.device("cpu")),
        )


def write_hub(network: SharedNetwork, card: str, folder: Path) -> Exported:
    """Writes the folder, whose README.md is `card`. An older one there is no longer valid while this runs.

    Returns:
        The file of weights, with what the folder gives for each task beside the run's network in masked execution.

    Raises:
        InputError: The folder cannot be written, or the network has a layer without a description.
    """
    trunk = describe_trunk(network.model.trunk)
    # copies: routers of one stream share their mask, and safetensors keeps no shared tensors
    tensors = {
        name: value.clone(memory_format=torch.contiguous_format) for name, value in network.model.state_dict().items()
    }
    tensors |= {f"{UNITS_PREFIX}{i}": torch.from_numpy(units).to(torch.int32) for i, units in enumerate(trunk.units)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG_FILE).unlink(missing_ok=True)
        write_bytes(folder / WEIGHTS_FILE, save(tensors, {"format": "pt"}))
        write_text(folder / CARD_FILE, card)
        content = describe(network) | {
            "graph": {"nodes": trunk.nodes, "layers": trunk.layers},
            "weights_sha256": file_sha256(folder / WEIGHTS_FILE),
        }
        write_json(folder / CONFIG_FILE, content)
    except OSError as error:
        raise InputError(f"--out {folder} cannot be written: {reason_of(error, 'Choose another folder.')}") from error
    num_bytes = (folder / WEIGHTS_FILE).stat().st_size
    return Exported(
        path=folder / WEIGHTS_FILE,
        output="logits",
        num_bytes=num_bytes,
        share=num_bytes / count_bytes(network.model),
        comparisons=tuple(compare_all(network, folder)),
    )


def describe(network: SharedNetwork) -> dict[str, Any]:
    """Returns what the folder says of a network, but for its graph."""
    checkpoint, config, decisions = network.checkpoint, network.config, network.decisions
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "matl_scale_version": installed_packages().get(PACKAGE, "unknown"),
        "tasks": [
            {
                "name": name,
                "classes": classes,
                "aim": decisions.aims[name],
                "rule": describe_rule(decisions.rules[name]),
            }
            for name, classes in checkpoint.classes.items()
        ],
        "fitted_on": decisions.info.split,
        "routes": checkpoint.routes.to_json(),
        "num_features": network.model.heads_of(0)[0].in_features,
        "image_size": checkpoint.image_size,
        "fit": config.fit,
        "mean": list(network.model.mean),
        "std": list(network.model.std),
        "execution": config.routing.execution,
        "route_chunk": config.route_chunk,
        "backbone": config.model.trunk if config.model.is_features else config.model.name,
        "run": str(checkpoint.config["run"]["name"]),
        "step": checkpoint.step,
        "checkpoint_sha256": checkpoint.sha256,
    }


def describe_rule(rule: DecisionRule) -> dict[str, Any]:
    arrays = {name: getattr(rule, name).tolist() for name in RULE_FIELDS}
    return {**arrays, "scale": float(rule.scale), "note": rule.note, "threshold": rule.threshold}


@torch.no_grad()
def compare_all(network: SharedNetwork, folder: Path) -> list[Comparison]:
    """Compares logits of the folder with masked execution of the run's network, on random images."""
    checkpoint, model = network.checkpoint, network.model
    size = checkpoint.image_size
    images = torch.randint(
        256, (NUM_IMAGES, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    found = load(folder).logits(images)
    masked = Predictor(model, "masked", route_chunk=0)
    masked.start()
    expected = masked.logits_of_tasks(model.normalise(images), range(len(checkpoint.classes))).values()
    rules = network.decisions.rules
    return [
        compare(name, rules[name], "logits", found[name], logits.numpy())
        for name, logits in zip(checkpoint.classes, expected, strict=True)
    ]
