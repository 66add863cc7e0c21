"""Task routing: which units of a layer are active for each task (`masks`), the layer that applies this (`router`), norms per
task (`batch_norm`, `layer_norms`), the graph surgery that puts both into a CNN (`units`, `channels`, `surgery`), and
sub-networks (`slicing`, `derive`, `subnetwork`, `shared_prefix`). Knows nothing of training."""
