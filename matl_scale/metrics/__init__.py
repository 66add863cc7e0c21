"""What is reported per task and over tasks, each defined once (`task_metrics`), and the counters it is computed from."""
