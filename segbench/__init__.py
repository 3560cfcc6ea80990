"""Benchmarking semantic segmentation so that the answer can be believed."""
