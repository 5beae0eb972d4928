"""``python -m hybridfit``: the command line."""

from hybridfit.cli import main

main()
