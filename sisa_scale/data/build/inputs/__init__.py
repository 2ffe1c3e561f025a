"""Which files a data set is built from, and their bytes."""
