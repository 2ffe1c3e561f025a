"""What users write in names, paths and values, and shells and schedulers read otherwise."""

HOSTILE = [
    "a b",
    "it's",
    '"q"',
    "$(touch injected)",
    "`touch injected`",
    "two\nlines",
    "$HOME",
    "\\",
    "*",
    "!x",
    "#y",
    ";z",
]
