"""Task routing: which units each task keeps (`masks`), the layer that applies it (`router`), per-task norm statistics
(`statistics`), and the graph surgery that puts both into a CNN (`channels`, `surgery`). Knows nothing of training."""
