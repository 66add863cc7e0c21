"""Labels that are likely wrong: found by confident learning, listed in a CSV file."""
