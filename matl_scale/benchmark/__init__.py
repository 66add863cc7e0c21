"""`matl-benchmark`: ratios that are measured side by side in one process. Each suite has modules of its own."""
