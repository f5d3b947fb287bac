"""Programs to learn from and to measure with: run them from the repository root, `python -m examples.<name>`."""
