"""Task routing: which units of a layer are active for each route (`masks`), the layer that applies this (`router`), norms per
route (`batch_norm`, `layer_norms`), the graph surgery that puts both into a CNN (`units`, `channels`, `layers`, `surgery`), and
sub-networks (`slicing`, `derive`, `subnetwork`, `shared_prefix`). Knows nothing of training."""
