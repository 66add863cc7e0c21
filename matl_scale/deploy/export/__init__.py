"""Sub-networks of tasks as dense networks of their own, in files that can be used without this package."""
