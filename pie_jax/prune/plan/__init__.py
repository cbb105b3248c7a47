"""Memory and time of a run, beforehand."""
