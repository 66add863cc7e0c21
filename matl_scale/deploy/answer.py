"""What a network says of images: logits, calibrated probabilities or decisions of some tasks, in numpy."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from matl_scale.decisions.rule import DecisionRule
from matl_scale.deploy.task_rules import OUTPUTS, Output, apply_rule
from matl_scale.errors import InputError
from matl_scale.models.predictor import Predictor
from matl_scale.tasks import match_names

BATCH = 256  # images that run together


def answer(
    predictor: Predictor,
    rules: Mapping[str, DecisionRule],
    images: np.ndarray | torch.Tensor,
    tasks: str | Sequence[str] = "*",
    output: Output = "logits",
) -> dict[str, np.ndarray]:
    """Returns the output of every task that a pattern matches, by its name. Every route that they need runs once for each `BATCH`
    images, so that a folder's worth of them may be given at once.

    Args:
        predictor: A network that has been started.
        rules: The decision rules of all its tasks, in their order.
        images: uint8, shape `(batch, 3, size, size)`, on any device.
        tasks: A name pattern, or several.
        output: `logits` as trained or calibrated `probabilities`, each of shape `(batch, num_classes)`, or `decisions`, the
            indices of the decided classes, shape `(batch,)`.

    Raises:
        InputError: There is no such task or output.
    """
    if output not in OUTPUTS:
        raise InputError(f"`output` should be one of {', '.join(OUTPUTS)}. Got {output!r}.")
    names = list(rules)
    task_ids = match_names(names, tasks, "task")
    device = next(predictor.model.parameters()).device
    logits: dict[str, list[np.ndarray]] = {names[task_id]: [] for task_id in task_ids}
    for part in torch.as_tensor(images).split(BATCH):
        found = predictor.logits_of_tasks(predictor.model.normalise(part.to(device)), task_ids)
        for task_id, values in found.items():
            logits[names[task_id]].append(values.float().cpu().numpy())
    return {name: apply_rule(rules[name], np.concatenate(parts), output) for name, parts in logits.items()}
