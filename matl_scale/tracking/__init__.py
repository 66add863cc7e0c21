"""The way of records: to the run folder (`recorder`), and from there to MLflow, by a
process of its own (`mlflow_follower`). No torch."""
