"""Counts of pixels, and every figure that is read off their sums. No torch here."""
