"""`python -m edgers`: the command line."""

from edgers.cli import main

main()
