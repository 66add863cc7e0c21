"""Backbones, the whole network (a routed trunk and a head per task), and the predictor, which runs many tasks on a batch.
Plain `nn.Module`s: no config file, rank or optimizer."""
