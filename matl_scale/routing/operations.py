"""What each operation of a traced CNN does to channels: the kinds of modules, functions and methods that can be followed.

Elementwise operations and pools compute each channel from itself alone, and keep inactive channels zero. Gates do not: a
sigmoid of zero is a half.
"""

import operator

import torch
from torch import nn
from torch.nn import functional

from matl_scale.routing.channelwise import BlurPool, SamePadding
from matl_scale.vision import StochasticDepth

ELEMENTWISE_MODULES = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Mish, nn.Tanh, nn.Identity,
    nn.Dropout, nn.Dropout2d, StochasticDepth,
)  # fmt: skip
GATE_MODULES = (nn.Sigmoid, nn.Hardsigmoid)
POOL_MODULES = (  # and whatever else combines or moves pixels of the same channel
    nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Upsample, nn.ZeroPad2d, BlurPool, SamePadding,
)  # fmt: skip
ELEMENTWISE_FUNCTIONS = (
    functional.relu, functional.relu6, functional.silu, functional.gelu, functional.hardswish, torch.relu, torch.tanh,
    "relu", "tanh", "tanh_", "contiguous", "clone",
)  # fmt: skip
POOL_FUNCTIONS = (functional.adaptive_avg_pool2d, functional.avg_pool2d, functional.max_pool2d)
GATE_FUNCTIONS = (torch.sigmoid, functional.sigmoid, functional.hardsigmoid, "sigmoid", "sigmoid_")
PRODUCTS = (operator.mul, operator.imul, torch.mul, "mul", "mul_")
SUMS = (  # and differences
    operator.add, operator.iadd, operator.sub, torch.add, torch.sub, "add", "add_", "sub",
)  # fmt: skip
RESHAPES = (torch.reshape, "reshape", "view")
ARGUMENT_KINDS = (int, float, bool, str, tuple, type(None), torch.dtype)
NORM_MODULES = (nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)
