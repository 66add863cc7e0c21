"""Data sets, one small file each: `build(...)` declares the tasks and returns a `Dataset`."""
