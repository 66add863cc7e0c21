"""Compares the replicas of a network over the ranks: they must stay equal, bit for bit."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from accelerate import Accelerator

from matl_scale.errors import RunError, shortened
from matl_scale.models.network import RoutedModel

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by size in bytes
MULTIPLIER = 0x9E3779B1  # odd, so that multiplying by it loses nothing


def compare_replicas(accelerator: Accelerator, model: RoutedModel, step: int) -> None:
    """Compares all parameters and buffers of a network over the ranks by checksums. All ranks have to call it.

    Raises:
        RunError: They differ; on all ranks.
    """
    if accelerator.num_processes == 1:
        return
    names, sums = checksums(model)
    both = torch.stack([sums, ~sums])  # the largest of ~x belongs to the smallest x
    dist.all_reduce(both, op=dist.ReduceOp.MAX)
    different = torch.nonzero(both[0] != ~both[1]).flatten()
    if not len(different):
        return
    first = int(different[0])
    everywhere = [torch.zeros_like(sums[first]) for _ in range(accelerator.num_processes)]
    dist.all_gather(everywhere, sums[first].clone())
    raise RunError(
        f"Replicas differ after step {step}: `{names[first]}`"
        + (f" and {len(different) - 1} more tensors" if len(different) > 1 else "")
        + f" {describe_odd_ranks([int(value) for value in everywhere])}. Memory or GPU of that node may be faulty (see its error "
        "counters), or ranks run on different hardware. Nothing was saved; start the run again: it resumes from its newest "
        "checkpoint."
    )


def checksums(model: RoutedModel) -> tuple[list[str], torch.Tensor]:
    """Returns the names of all parameters and buffers, and an int64 checksum of the bits of each.

    The sum of the words, each multiplied by its position: any single flipped bit changes it, and so does an exchange.
    """
    state = model.state_dict()
    sums = []
    for value in state.values():
        words = value.detach().contiguous().view(-1)
        words = words.view(INTEGERS[words.element_size()]).long()
        factors = torch.arange(1, 2 * len(words), 2, device=words.device) * MULTIPLIER
        sums.append((words * factors).sum())
    return list(state), torch.stack(sums)


def describe_odd_ranks(values: Sequence[int]) -> str:
    """Says which ranks hold another value than most, or that there is no majority."""
    counts = {value: values.count(value) for value in values}
    most = max(counts, key=lambda value: counts[value])
    if counts[most] * 2 <= len(values):
        return f"has {len(counts)} different values on {len(values)} ranks"
    odd = [rank for rank, value in enumerate(values) if value != most]
    return f"differs on rank {shortened(odd)} from the {counts[most]} others"
