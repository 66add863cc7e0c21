"""Self-attention in a form that can be cut by heads: a linear layer makes queries, keys and values of all tokens, a
`HeadAttention` computes each head from its own, and a linear layer mixes the concatenated heads.

Between the two linear layers each head is computed from itself alone, so that a head is a unit. `HeadAttention` has no weights:
what else belongs to heads is an input, so that it is cut as any other parameter is. Names of parameters stay those of the module
that is replaced.

Source: Vaswani et al., Attention Is All You Need, NeurIPS 2017, arXiv 1706.03762, in the form of Dosovitskiy et al., An Image is
Worth 16x16 Words, ICLR 2021, arXiv 2010.11929.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

QKV = 3  # queries, keys, values


class InProjection(nn.Linear):
    """The linear layer in `nn.MultiheadAttention` that makes queries, keys and values. An object of that class becomes one of
    this class; its parameters keep their names."""

    in_proj_weight: nn.Parameter
    in_proj_bias: nn.Parameter | None

    def __init__(self, features: int, bias: bool = True) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = features, QKV * features
        self.in_proj_weight = nn.Parameter(torch.empty(QKV * features, features))
        self.register_parameter("in_proj_bias", nn.Parameter(torch.empty(QKV * features)) if bias else None)

    @property
    def weight(self) -> nn.Parameter:  # type: ignore[override]
        return self.in_proj_weight

    @property
    def bias(self) -> nn.Parameter | None:  # type: ignore[override]
        return self.in_proj_bias

    @staticmethod
    def become(attention: Any) -> None:
        """Turns an `nn.MultiheadAttention` into its own linear layer, in place."""
        features = attention.embed_dim
        attention.__class__ = InProjection
        attention.in_features, attention.out_features = features, QKV * features


class KeysWithoutBias(nn.Linear):
    """A linear layer that makes queries, keys and values, whose keys have no bias: that part of the parameter has no effect."""

    @staticmethod
    def of(linear: nn.Linear) -> nn.Linear:
        """Turns a linear layer into one of this class, in place; returns it."""
        linear.__class__ = KeysWithoutBias
        return linear

    @property
    def bias(self) -> torch.Tensor | None:  # type: ignore[override]
        parameter = self._parameters["bias"]
        if parameter is None:
            return None
        query, _, value = parameter.chunk(QKV)
        return torch.cat([query, torch.zeros_like(query), value])


class HeadAttention(nn.Module):
    """Attention of every token to all others, head by head.

    Args:
        head_dim: The number of channels of a head.
        dropout: The probability with which an attention weight is left out while training.
        norm: How queries and keys are normalised: not at all, or by a `layer` norm or an `rms` norm over the channels of a head,
            with weights that all heads share.
        eps: Of these norms.

    Attributes:
        HEAD_DIMS: For each input behind `qkv` the dimension that belongs to heads; None for none.
    """

    HEAD_DIMS: tuple[int | None, ...] = ()

    def __init__(self, head_dim: int, dropout: float = 0.0, norm: str = "", eps: float = 0.0) -> None:
        super().__init__()
        self.head_dim, self.dropout, self.norm, self.eps = head_dim, dropout, norm, eps

    def forward(self, qkv: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        """Computes the heads.

        Args:
            qkv: Queries, keys and values of all heads, one after the other, shape
                `(batch, num_tokens, 3 · num_heads · head_dim)`.
            weights: Those of the norms of queries and of keys, each of shape `(head_dim,)`: weight and bias with `layer`, a
                weight with `rms`.

        Returns:
            The heads side by side, shape `(batch, num_tokens, num_heads · head_dim)`.
        """
        query, key, value = self.split(qkv)
        if self.norm:
            half = len(weights) // 2
            query, key = self.normalise(query, weights[:half]), self.normalise(key, weights[half:])
        dropout = self.dropout if self.training else 0.0
        return self.join(functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout))

    def split(self, qkv: torch.Tensor) -> Sequence[torch.Tensor]:
        """Returns queries, keys and values, each of shape `(..., num_heads, num_tokens, head_dim)`."""
        parts: torch.Tensor = qkv.unflatten(-1, (3, -1, self.head_dim)).movedim(-3, 0).transpose(-3, -2)
        return parts.unbind(0)

    def normalise(self, x: torch.Tensor, weights: Sequence[torch.Tensor]) -> torch.Tensor:
        if self.norm == "rms":
            return functional.rms_norm(x, (self.head_dim,), weights[0], self.eps)
        return functional.layer_norm(x, (self.head_dim,), weights[0], weights[1], self.eps)

    def join(self, heads: torch.Tensor) -> torch.Tensor:
        """Puts heads, shape `(..., num_heads, num_tokens, head_dim)`, side by side."""
        return heads.transpose(-3, -2).flatten(-2)

    def extra_repr(self) -> str:
        return f"head_dim={self.head_dim}"
