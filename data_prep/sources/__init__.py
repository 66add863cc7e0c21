"""Known data sets, one small file each: `build(...)` declares tasks and gives a `Dataset`."""
