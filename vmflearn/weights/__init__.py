"""Weights from files: published checkpoints, this project's own, and where they come from."""
