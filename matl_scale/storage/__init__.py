"""Local and remote files that appear whole or not at all, and locks. Knows nothing about what is stored."""
