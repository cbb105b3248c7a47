"""Gains and searches over all prompts of a task."""
