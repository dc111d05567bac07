#!/usr/bin/env python
"""Write, index, check and describe shard sets; the same as python -m data.write."""

import sys

from swinmim.errors import one_line_at_interrupt


def main() -> int:
    from data.write.__main__ import main as write

    return write()


if __name__ == "__main__":
    with one_line_at_interrupt("make_shards"):
        sys.exit(main())
