"""`python -m dyndet`: the command `dyndet`."""

from dyndet_builder.cli import main

main()
