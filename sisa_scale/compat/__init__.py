"""What the package uses of other libraries' private parts: one file a library, with the version it was checked with.

Every touch is a function that says why it is needed; `tests/unit/compat` fails where a library has changed.
"""
