"""python -m wasmrt"""

import sys

from wasmrt.cli import main

sys.exit(main())
