"""`python -m dyndet_builder.cli`, the form that torchrun starts."""

from dyndet_builder.cli import main

main()
