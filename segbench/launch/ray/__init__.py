"""Trials as tasks of Ray Tune."""
