#!/usr/bin/env python
"""Write, index, check and describe shard sets; the same as python -m data.write."""

import sys

from data.write.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
