# SPDX-License-Identifier: Apache-2.0
"""`python -m fusedsched`."""

import sys

from fusedsched.cli import main

if __name__ == "__main__":
    sys.exit(main())
