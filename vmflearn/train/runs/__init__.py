"""A run as processes and a folder: records, locks, signals, and what makes it the same run."""
