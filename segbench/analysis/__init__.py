"""From stored counts to verdicts: figures, resampling, tests, claims. No torch here."""
