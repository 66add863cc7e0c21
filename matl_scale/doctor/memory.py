"""The memory that a rank will need: for the network, its optimizer, and what a batch saves for the backward pass."""

from collections.abc import Iterator
from dataclasses import dataclass

import psutil
import torch
from torch import nn

from matl_scale.automatic import chosen
from matl_scale.doctor.finding import Finding
from matl_scale.launcher import read_count
from matl_scale.models.network import RoutedModel, count_bytes
from matl_scale.routes import Routes
from matl_scale.routing.subnetwork import Subnetwork
from matl_scale.train.build_state import build_network
from matl_scale.train.config import Config
from matl_scale.train.run_data import RunData
from matl_scale.train.step.execution import SlotExecution
from matl_scale.train.step.frozen_modules import freeze_modules
from matl_scale.train.step.optimizers import OPTIMIZERS

PROBE_IMAGES = 2
SAFE_SHARE = 0.9


@dataclass(frozen=True, kw_only=True)
class MemoryNeed:
    """Bytes that a rank needs."""

    weights: int  # of trunk and heads, and affine weights of routes
    gradients: int  # of what belongs to one route, only those of active routes
    optimizer: int
    average: int  # the moving average of the weights
    tasks: int  # masks and norm statistics
    activations: int  # what the forward pass of a batch saves for its backward pass
    labels: int  # in the memory of the host

    @property
    def device(self) -> int:
        """Bytes on the device: all but the labels."""
        return self.weights + self.gradients + self.optimizer + self.average + self.tasks + self.activations


def estimate_memory(config: Config, data: RunData, routes: Routes, slots: SlotExecution) -> MemoryNeed:
    """Estimates the need from the network itself, with two images through its first route."""
    model = build_network(config.without_weights(), data, routes, torch.device("cpu"))
    freeze_modules(model.trunk, config.model.freeze, model.affine)
    weights, trained = count_bytes(model), count_trained(model)
    # heads, and affine weights of routes: only those of active routes have gradients
    own = count_trained(model.heads) + (0 if model.affine is None else count_trained(model.affine))
    own_share = own // routes.num_routes
    return MemoryNeed(
        weights=weights,
        gradients=trained - own + own_share * min(chosen(config.train.accumulate), routes.num_routes),
        optimizer=OPTIMIZERS[config.optim.name].moments * trained,
        average=weights if config.train.ema_decay else 0,
        tasks=sum(buffer.nbytes for buffer in model.buffers()),
        activations=measure_activations(config, data, model, slots),
        labels=data.labels.nbytes,
    )


def count_trained(module: nn.Module) -> int:
    """Returns the bytes of a module's parameters that `model.freeze` leaves to be trained."""
    return sum(parameter.nbytes for parameter in module.parameters() if parameter.requires_grad)


def measure_activations(config: Config, data: RunData, model: RoutedModel, slots: SlotExecution) -> int:
    """Returns the bytes that the forward pass of a batch saves for its backward pass; of all batches of a step, where they run
    together."""
    is_sliced = config.routing.execution == "subnetwork" and slots != "joint"
    trunk: nn.Module = Subnetwork(model.trunk) if is_sliced else model.trunk

    def count_saved(num_images: int) -> int:
        saved: dict[int, int] = {}

        def add(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            saved[storage.data_ptr()] = storage.nbytes()
            return tensor

        images = torch.zeros(num_images, *(config.model.input_shape or (3, data.image_size, data.image_size)))
        with torch.autograd.graph.saved_tensors_hooks(add, lambda tensor: tensor):
            found = trunk(images, torch.tensor([0]), affine=model.affine_of(0)).sum()
        del found  # until here, so that no storage is freed and another one gets its address
        return sum(saved.values())

    # what is saved of weights and masks does not grow with the images
    of_an_image = (count_saved(2 * PROBE_IMAGES) - count_saved(PROBE_IMAGES)) / PROBE_IMAGES
    shrinkage = 1.0 if config.train.precision == "fp32" else 0.5  # the probe runs in float32
    together = 1 if slots == "single" else chosen(config.train.accumulate)  # slots whose passes overlap
    return int(of_an_image * shrinkage * together * chosen(config.data.batch_size))


def check_memory(
    config: Config, data: RunData, routes: Routes, ranks_per_node: int, slots: SlotExecution
) -> Iterator[Finding]:
    """Compares the estimate with what the device has."""
    need = estimate_memory(config, data, routes, slots)
    text = (
        f"about {gigabytes(need.device)} per rank: weights {gigabytes(need.weights)}, gradients {gigabytes(need.gradients)}, "
        f"optimizer {gigabytes(need.optimizer)}, masks and statistics of {routes.num_routes} routes {gigabytes(need.tasks)}, "
        f"activations of a batch of {config.data.batch_size} {gigabytes(need.activations)}"
    )
    remedy = (
        "Lower `data.batch_size` (and raise `train.accumulate`), `data.image_size`, `model.width` or `routing.sigma`; or keep "
        "fewer activations with `train.checkpointing`, which this estimate does not know."
    )
    copies = 1 if data.has_shared_labels else ranks_per_node
    holders = "which all ranks of a node share" if data.has_shared_labels else f"in each of {copies} ranks of a node"
    if torch.cuda.is_available():
        available = torch.cuda.get_device_properties(0).total_memory
        yield compare(f"{text}; the GPU has {gigabytes(available)}", need.device, available, remedy)
        needed = need.labels * copies
        text = f"labels {gigabytes(need.labels)}, {holders}"
    else:
        needed = need.device * ranks_per_node + need.labels * copies
        text += f"; × {ranks_per_node} ranks of a node; labels {gigabytes(need.labels)}, {holders}"
    available = host_memory()
    yield compare(f"{text}; the node offers {gigabytes(available)}", needed, available, remedy)


def compare(text: str, needed: int, available: int, remedy: str) -> Finding:
    """Compares bytes that are needed with those that are available."""
    if needed > available:
        return Finding("error", "memory", f"{text}: not enough.", remedy)
    if needed > SAFE_SHARE * available:
        return Finding("warning", "memory", f"{text}: nearly all of it.", remedy)
    return Finding("ok", "memory", f"{text}.")


def host_memory() -> int:
    """Returns the bytes that this machine, or this Slurm job on it, can still use."""
    available = int(psutil.virtual_memory().available)
    limit = read_count("SLURM_MEM_PER_NODE", 0)
    return min(available, limit * 2**20) if limit else available


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e7 else f"{size / 1e6:.2f} MB"
