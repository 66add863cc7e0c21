"""A trained network as model hubs lay it out: a folder of weights, description and model card, read without torchvision."""
