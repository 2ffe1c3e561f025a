"""The report of a table: contents, words, page."""
