"""A run's files: its record, its trials, their state, and tables of their numbers."""
