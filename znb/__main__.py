"""``python -m znb`` is ``znb``."""

import sys

from znb.cli import main

sys.exit(main())
