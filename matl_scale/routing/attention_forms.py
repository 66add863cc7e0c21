"""How torch's and torchvision's attention modules are traced: as linear layers and `HeadAttention` between them; and what else of
Swin computes with sizes.

A form has two parts: `prepare` gives a module the layers without weights that its graph needs, before the names of modules are
noted, and `run` calls them instead of its own `forward`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from matl_scale.errors import InputError
from matl_scale.routing.attention import HeadAttention, InProjection, KeysWithoutBias
from matl_scale.routing.window_attention import NeighbourGather, WindowAttention, WindowMerge, WindowSplit
from matl_scale.vision import PatchMerging, PatchMergingV2, ShiftedWindowAttention, ShiftedWindowAttentionV2


@dataclass(frozen=True)
class ModuleForm:
    """How modules of a class are traced."""

    prepare: Callable[[Any], None]  # takes the module
    run: Callable[..., Any]  # takes the tracer, the module, and what its `forward` takes


Forms = Mapping[type[nn.Module], ModuleForm]


def prepare_multihead(attention: nn.MultiheadAttention) -> None:
    is_plain = attention._qkv_same_embed_dim and attention.bias_k is None and not attention.add_zero_attn
    if is_plain and attention.batch_first:
        attention.heads = HeadAttention(attention.head_dim, attention.dropout)


def run_multihead(
    tracer: fx.Tracer, attention: nn.MultiheadAttention, query: Any, key: Any, value: Any, **options: Any
) -> tuple[Any, None]:
    heads: Any = getattr(attention, "heads", None)  # none where attention is of another kind
    has_options = any(setting is not None for name, setting in options.items() if name != "need_weights")
    if query is not key or query is not value or has_options or not isinstance(heads, HeadAttention):
        raise InputError(
            "only attention of tokens to themselves, without a mask and with the batch first, can be cut by heads"
        )
    name = tracer.path_of_module(attention)
    InProjection.become(attention)
    mixing: Any = attention.out_proj
    mixing.__class__ = nn.Linear  # torch has a subclass that computes the same
    return mixing(heads(tracer.create_proxy("call_module", name, (query,), {}))), None


def prepare_windows(attention: Any) -> None:
    head_dim = attention.qkv.out_features // 3 // attention.num_heads
    window, shift = attention.window_size, attention.shift_size
    is_cosine = isinstance(attention, ShiftedWindowAttentionV2)
    if is_cosine:
        KeysWithoutBias.of(attention.qkv)
    attention.split, attention.merge = WindowSplit(window, shift), WindowMerge(window, shift)
    attention.heads = WindowAttention(head_dim, window, shift, attention.attention_dropout, is_cosine)
    attention.drop = nn.Dropout(attention.dropout)


def run_windows(tracer: fx.Tracer, attention: Any, x: Any) -> Any:
    if isinstance(attention, ShiftedWindowAttentionV2):
        name = f"{tracer.path_of_module(attention)}.relative_coords_table"
        coordinates = tracer.create_proxy("get_attr", name, (), {}).flatten(0, 2)
        biases = [attention.cpb_mlp(coordinates), attention.logit_scale]
    else:
        biases = [attention.relative_position_bias_table]
    qkv = attention.qkv(attention.split(x))
    heads = attention.heads(qkv, x, attention.relative_position_index, *biases)
    return attention.drop(attention.merge(attention.proj(heads), x))


def prepare_merging(merging: Any) -> None:
    merging.gather = NeighbourGather()


TORCH_FORMS: Forms = {
    nn.MultiheadAttention: ModuleForm(prepare_multihead, run_multihead),
    ShiftedWindowAttention: ModuleForm(prepare_windows, run_windows),
    ShiftedWindowAttentionV2: ModuleForm(prepare_windows, run_windows),
    PatchMerging: ModuleForm(prepare_merging, lambda _, merging, x: merging.reduction(merging.norm(merging.gather(x)))),
    PatchMergingV2: ModuleForm(
        prepare_merging, lambda _, merging, x: merging.norm(merging.reduction(merging.gather(x)))
    ),
}
