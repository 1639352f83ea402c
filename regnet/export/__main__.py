"""python -m regnet.export"""

import sys

from regnet.export.onnx_export import main

if __name__ == "__main__":
    sys.exit(main())
