"""Runs beside each other: which tasks they share, and what differs."""
