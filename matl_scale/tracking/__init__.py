"""What a run leaves to read. Local files are written first, by the training process (`local`); a process of its own
carries them to MLflow (`mlflow_follower`). Neither knows torch."""
