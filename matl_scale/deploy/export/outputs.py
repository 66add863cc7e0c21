"""Ends the graph of a dense network with calibrated probabilities, or with decisions."""

import copy
import operator
from collections.abc import Sequence
from typing import cast

import torch
from torch import fx

from matl_scale.decisions.rule import DecisionRule
from matl_scale.deploy.task_rules import Output


def end_with(network: fx.GraphModule, rules: Sequence[DecisionRule], output: Output) -> fx.GraphModule:
    """Returns a network from `dense_network` that gives `output` instead of logits; it shares the layers of the given one.

    Each task's logits, `(batch, num_classes)`, become probabilities of the same shape, or the indices of the decided classes,
    int64, `(batch,)`, by its rule.
    """
    if output == "logits":
        return network
    ended = fx.GraphModule(network, copy.deepcopy(network.graph), "DenseNetwork").eval()
    (end,) = (node for node in ended.graph.nodes if node.op == "output")
    logits = cast(Sequence[fx.Node], [end.args[0]] if isinstance(end.args[0], fx.Node) else end.args[0])
    with ended.graph.inserting_before(end):
        ends = [
            add_rule(ended, node, rule, output, "shift" if len(rules) == 1 else f"shift_{i}")
            for i, (node, rule) in enumerate(zip(logits, rules, strict=True))
        ]
    end.args = (ends[0] if len(ends) == 1 else tuple(ends),)
    ended.graph.lint()
    ended.recompile()
    return ended


def add_rule(network: fx.GraphModule, logits: fx.Node, rule: DecisionRule, output: Output, name: str) -> fx.Node:
    """Writes what a rule does with logits at the graph's point of insertion, with its shift as the buffer `name`. Returns
    the last node."""
    shift = rule.shift if output == "probabilities" else rule.shift + rule.decision_offsets
    while hasattr(network, name):  # a layer is called so
        name += "_"
    network.register_buffer(name, torch.tensor(shift, dtype=next(network.parameters()).dtype))
    graph = network.graph
    scaled = graph.call_function(operator.mul, (logits, float(rule.scale)))
    shifted = graph.call_function(operator.add, (scaled, graph.get_attr(name)))
    return graph.call_method("softmax" if output == "probabilities" else "argmax", (shifted, 1))
