"""Stage III: measure how well an explanation says when its feature fires."""
