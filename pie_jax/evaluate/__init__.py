"""Stage III: measure how well an explanation predicts when its feature fires."""
