"""A trained network in use, without its trainer: predictions for unlabelled images, exported sub-networks, a model for MLflow."""
