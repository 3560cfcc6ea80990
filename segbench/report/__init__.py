"""Draw what was found: tables, figures, the page. Knows nothing of how verdicts are computed."""
