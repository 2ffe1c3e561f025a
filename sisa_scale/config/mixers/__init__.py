"""The settings of the mixers, one file a family."""
