"""What ends a run early, on purpose: garbage in numbers, replicas or data, silent ranks, a signal, a time limit."""
