"""What the demo is trained on: docstrings, templates and a small grammar."""
