"""What a user writes: cards and experiments, read strictly into frozen records. No torch here."""
