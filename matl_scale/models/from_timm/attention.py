"""How timm's attention modules are traced: as torch's and torchvision's are (`matl_scale.routing.attention_forms`)."""

from typing import Any

from torch import fx, nn

from matl_scale.models.from_timm.library import load_timm
from matl_scale.routing.attention import HeadAttention
from matl_scale.routing.attention_forms import TORCH_FORMS, Forms, ModuleForm

timm_layers = load_timm("This module").layers
# of queries and keys: what is computed, and the parameters that it reads
NORMS: dict[type[nn.Module], tuple[str, tuple[str, ...]]] = {
    nn.LayerNorm: ("layer", ("weight", "bias")),
    timm_layers.LayerNorm: ("layer", ("weight", "bias")),
    timm_layers.RmsNorm: ("rms", ("weight",)),
}


def find_norm(attention: Any) -> tuple[str, tuple[str, ...], float] | None:
    """Returns how an attention normalises queries and keys, by which parameters and with which epsilon; None if it does so in
    another way than `HeadAttention` can."""
    norms = (attention.q_norm, attention.k_norm)
    if all(isinstance(norm, nn.Identity) for norm in norms):
        return "", (), 0.0
    found = [NORMS.get(type(norm)) for norm in norms]
    if found[0] is None or found[0] != found[1] or norms[0].eps != norms[1].eps:
        return None
    names = found[0][1]
    has_all = all(getattr(norm, name) is not None for norm in norms for name in names)
    return (found[0][0], names, norms[0].eps) if has_all else None


def prepare_attention(attention: Any) -> None:
    if (found := find_norm(attention)) is not None:
        attention.heads = HeadAttention(attention.head_dim, attention.attn_drop.p, found[0], found[2])


def run_attention(_: fx.Tracer, attention: Any, x: Any, attn_mask: Any = None, is_causal: bool = False) -> Any:
    if not hasattr(attention, "heads") or attn_mask is not None or is_causal:
        return type(attention).forward(attention, x, attn_mask, is_causal)  # which is routed in no part of it
    gate = attention.gate(x).sigmoid() if attention.gate is not None else None
    found = find_norm(attention)
    assert found is not None
    weights = [getattr(norm, name) for norm in (attention.q_norm, attention.k_norm) for name in found[1]]
    y = attention.norm(attention.heads(attention.qkv(x), *weights))
    return attention.proj_drop(attention.proj(y if gate is None else y * gate))


TIMM_FORMS: Forms = {**TORCH_FORMS, timm_layers.Attention: ModuleForm(prepare_attention, run_attention)}
