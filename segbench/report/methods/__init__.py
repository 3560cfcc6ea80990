"""The methods paragraph of a paper on a run, and the checklist's statistics: words from the record."""
