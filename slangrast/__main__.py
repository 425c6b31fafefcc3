"""python -m slangrast"""

import sys

from slangrast.cli import main

sys.exit(main())
