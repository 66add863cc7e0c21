"""Backbones, the whole network (a routed trunk and a head per task), and many tasks on one batch. Plain `nn.Module`s."""
