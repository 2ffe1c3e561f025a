"""A scaling study as one object: a grid of runs that is planned, run trial by trial, collected and reported."""
