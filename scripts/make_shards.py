"""Pack images into WebDataset shards: the same as `python -m data.write`."""

import sys

from data.write import main

if __name__ == "__main__":
    sys.exit(main())
