"""Decisions: from a network's logits to probabilities that mean what they say, and to one class. No torch.

`rule` is what is applied, `aim` what a decision should be best at, `calibration` and `threshold` fit the two halves of a rule,
`binary` and `several_classes` put them together for a task, `fit` does so for all tasks and measures what it brings, and
`table` is the file.
"""
