"""Which code makes the numbers: segbench's own version, and the sources of a user's modules."""
