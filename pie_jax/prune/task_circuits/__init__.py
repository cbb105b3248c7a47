"""Circuits of a whole task."""
