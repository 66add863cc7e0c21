"""Masks that change while a run goes on."""
