"""From the results of units to a data set."""
