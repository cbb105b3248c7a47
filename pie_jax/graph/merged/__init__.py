"""One graph of several: of a task's prompts, or the difference of two."""
