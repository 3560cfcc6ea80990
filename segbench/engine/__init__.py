"""Train, evaluate, predict, count. Knows nothing of launchers, experiments or reports."""
