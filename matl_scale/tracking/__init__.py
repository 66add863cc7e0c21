"""Records go to the run folder (`recorder`), and a process of its own copies them from there to MLflow (`mlflow_follower`)."""
