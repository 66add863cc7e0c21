"""Turns images and a label matrix into a shard set. Of `matl_scale` it knows only the shard contract."""
