"""Claims: what each asks, how it is judged, and what it would take to decide it."""
