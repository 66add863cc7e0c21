"""What a run finds in its folder when it starts, what it starts from, and what it saves."""
