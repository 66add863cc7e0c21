"""Runs compared with each other, task by task: what can be compared, what differs beyond noise, and what differs by seed."""
