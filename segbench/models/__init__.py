"""From cards to networks: trunks, heads, and the geometry that aligns them.

Knows nothing of data sets, training or files of results.
"""
