"""What a study found: table, figures, forecast, verdict."""
