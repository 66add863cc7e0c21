"""The search for the settings of each variant of a sweep: equally many trials of equal budgets. Needs the extra `tune`."""
