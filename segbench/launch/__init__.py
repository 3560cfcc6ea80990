"""Start workers for trials and follow them. What a trial computes is unknown here.

A launcher takes a `Work` and calls back with events; the results are in files, the same whichever
launcher ran. A failed trial is an event, never an exception.
"""
