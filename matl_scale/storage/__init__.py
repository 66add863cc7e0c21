"""Files that appear whole, locks, and stores behind URLs. Knows nothing of what is stored."""
