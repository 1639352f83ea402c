"""python -m regnet.runs"""

import sys

from regnet.runs.listing import main

if __name__ == "__main__":
    sys.exit(main())
