"""A scaling study as one object: a grid of runs that is planned, run piece by piece, collected and reported."""
