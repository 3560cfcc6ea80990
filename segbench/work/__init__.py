"""What happens in a worker: training, scoring, predictions, labels, times."""
