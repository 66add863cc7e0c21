"""A trained network at work without its trainer: predictions for unlabelled images, exported sub-networks, a model for MLflow."""
