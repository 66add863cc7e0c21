"""Checks that find, before a run starts, what may go wrong with it. Every complaint says what to do."""
