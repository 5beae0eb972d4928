"""``python -m hybridfit``: the command line."""

import os
import sys

# what lies in the working directory, perhaps among somebody's data, is no module of ours
if not sys.flags.safe_path and sys.path and sys.path[0] in ("", os.getcwd()):
    del sys.path[0]

from hybridfit.cli.app import main

main()
