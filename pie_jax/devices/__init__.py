"""Devices: meshes and placement, several processes, shapes and compiled programs."""
