"""What each command does, between its flags and the wings that do the work."""
