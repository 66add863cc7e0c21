"""Data sets, one small file each: `build(...)` declares tasks and gives a `Dataset` of rows and images."""
