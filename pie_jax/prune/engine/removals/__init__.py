"""Removals that compute only what they change."""
