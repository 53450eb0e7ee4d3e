"""The state of a run on the disk."""
