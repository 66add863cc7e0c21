"""Puts stored weights into a backbone. Every tensor of the backbone has to be there, with its shape; a classifier is left out.

Names in the file may have a prefix, as `module.` of data-parallel training, or `backbone.`: it is the text in front of the
backbone's own names that fits most of them.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import nn

from matl_scale.errors import InputError, shortened
from matl_scale.models.transformers import find_size_argument
from matl_scale.models.weights.file import StoredWeights
from matl_scale.text import count_of

COUNTER = "num_batches_tracked"  # of batch norms; older files have none, and nothing here needs it
SHOWN = 3  # names per kind of difference
IMAGE_CHANNELS = 3
POSITIONS = "pos_embed"  # in the names of position embeddings, of which there is one per patch


def load_weights(backbone: nn.Module, classifier: Collection[str], weights: StoredWeights, name: str) -> None:
    """Copies stored weights into a backbone.

    Args:
        backbone: Without its classifier.
        classifier: The names of the tensors that its classifier had.
        weights: To be copied.
        name: What the backbone is called in the config, for errors.

    Raises:
        InputError: A tensor is missing, has another shape, or is in the file alone. Names the first of each.
    """
    values = fit_weights(backbone.state_dict(), classifier, weights, name)
    with torch.no_grad():
        for key, value in backbone.state_dict(keep_vars=True).items():
            if key in values:
                value.copy_(values[key])


def fit_weights(
    own: Mapping[str, torch.Tensor], classifier: Collection[str], weights: StoredWeights, name: str
) -> dict[str, torch.Tensor]:
    """Returns the stored value of every tensor of a backbone; `own` are its own, of which only shapes count. Raises what
    `load_weights` raises."""
    prefix = find_prefix(own, weights)
    inside = {key[len(prefix) :]: value for key, value in weights.tensors.items() if key.startswith(prefix)}
    spread_grey(own, inside)
    needed = [key for key in own if not key.endswith(COUNTER)]
    missing = [key for key in needed if key not in inside]
    others = [key for key in needed if key in inside and inside[key].shape != own[key].shape]
    left_over = [key for key in inside if key not in own and not key.endswith(COUNTER)]
    strange = [key for key in left_over if key not in find_heads(left_over, own, classifier, inside)]
    if missing or others or strange:
        shapes = [f"{key}: {tuple(inside[key].shape)} in the file, {tuple(own[key].shape)} here" for key in others]
        raise InputError(
            explain(weights, name, len(needed), {"missing": missing, "shapes": shapes, "strange": strange})
        )
    return {key: inside[key] for key in own if key in inside}


def find_prefix(own: Mapping[str, torch.Tensor], weights: StoredWeights) -> str:
    """Returns the text in front of the backbone's names in the file; empty if none of them is there, or only such as are found in
    many places of a network (`bn1.weight`).

    Raises:
        InputError: Several networks in the file fit equally well, and none of them alone is a moving average.
    """
    counts: Counter[str] = Counter()
    for key in weights.tensors:
        parts = key.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in own:
                counts["".join(f"{part}." for part in parts[:start])] += 1
    most = max(counts.values(), default=0)
    best = [prefix for prefix, count in counts.items() if count == most]
    if len(best) > 1 and 2 * most < len(own):
        return ""
    averages = [prefix for prefix in best if "ema" in prefix.lower() or "teacher" in prefix.lower()]
    if len(best) > 1 and len(averages) != 1:
        raise InputError(
            f"`model.weights`: {weights.path} holds {len(best)} networks that fit: their names begin with {shortened(best)}. "
            "Save the one that you mean in a file of its own."
        )
    return (averages if len(best) > 1 else best or [""])[0]


def spread_grey(own: Mapping[str, torch.Tensor], inside: dict[str, torch.Tensor]) -> None:
    """Adapts the first conv of a network for grey images to images with three channels, in place. Grey images have three equal
    ones here, so that a third of the weights for each gives what the network for grey images gives."""
    first = next((key for key, value in own.items() if value.ndim == 4 and value.shape[1] == IMAGE_CHANNELS), None)
    if first in inside and inside[first].ndim == 4 and inside[first].shape[1] == 1:
        inside[first] = inside[first].float().expand(-1, IMAGE_CHANNELS, -1, -1) / IMAGE_CHANNELS


def find_heads(
    left_over: Sequence[str],
    own: Mapping[str, torch.Tensor],
    classifier: Collection[str],
    inside: Mapping[str, torch.Tensor],
) -> set[str]:
    """Returns the names in a file that belong to heads: those of the classifier, and those under a name that the backbone does
    not have if they are matrices and vectors. A conv under such a name is a layer that the backbone lacks."""
    modules = {key.rpartition(".")[0] for key in classifier}
    trunk = {key.partition(".")[0] for key in own}
    with_convs = {key.partition(".")[0] for key in left_over if inside[key].ndim > 2}
    return {
        key for key in left_over if key.rpartition(".")[0] in modules or key.partition(".")[0] not in trunk | with_convs
    }


def explain(weights: StoredWeights, name: str, num_needed: int, found: Mapping[str, Sequence[str]]) -> str:
    """Says which tensors of a file do not fit a backbone."""
    texts = {"missing": "missing", "shapes": "of another shape", "strange": "in the file alone"}
    parts = [f"{len(keys)} {texts[kind]} ({shortened(keys, SHOWN)})" for kind, keys in found.items() if keys]
    architecture = weights.texts.get("architecture")
    hint = f"The file says that they are those of {architecture}. " if isinstance(architecture, str) else ""
    if len(found["missing"]) == num_needed:
        parts = [f"none of its names is there (the file has {shortened(list(weights.tensors), SHOWN)})"]
    return (
        f"`model.weights`: {weights.path} does not fit `model.name` = {name}, which has {count_of(num_needed, 'tensor')}: "
        f"{'; '.join(parts)}. {hint}{suggest_model(name, found['shapes'])}"
    )


def suggest_model(name: str, other_shapes: Sequence[str]) -> str:
    """Returns what to do about weights that do not fit, some of which have other shapes than the backbone's tensors."""
    if any(POSITIONS in key for key in other_shapes) and (argument := find_size_argument(name)):
        return (
            f"Its position embeddings are of images of another size, or of other patches: set {argument} in `model.args`, and "
            "`model.name`, to what the weights were trained for."
        )
    return "Set `model.name`, and `model.stem`, to what the weights were trained for."
