"""What is reported per task and over tasks, each defined once, and the counters that the numbers are computed from.

`names` has what metrics and summaries are called, `task_metrics` their values and why one is missing, and `counters` (the
only module that needs torch) how metrics are computed from batches.
"""
