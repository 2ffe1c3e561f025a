"""Learning rates that a study finds before its other trials."""
