"""`python -m giveback`."""

import sys

from giveback.cli import main

if __name__ == "__main__":
    sys.exit(main())
