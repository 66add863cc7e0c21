"""Several trainings of one set beside each other, with equal budgets: planned once, run by processes that may die."""
