"""Task routing: which units each task keeps (`masks`), the layer that applies it (`router`), per-task norm statistics
(`batch_norm`, `layer_norms`), the graph surgery that puts both into a CNN (`units`, `channels`, `surgery`), and sub-networks
(`slicing`, `derive`, `subnetwork`, `shared_prefix`). Knows nothing of training."""
