"""Formats of images by the endings of their names. A first sieve only; the decoder looks at the bytes."""

# What shards hold; an index counts them.
SUFFIXES = ("jpg", "png", "webp", "tif", "npy")
# As others spell them in tars, in the order in which one is taken where a sample has several, with their numbers.
SUFFIX_NUMBERS = {"jpg": 0, "jpeg": 0, "png": 1, "webp": 2, "tif": 3, "tiff": 3, "npy": 4}
# What is read and written anew as well.
EXTENSIONS = frozenset(SUFFIX_NUMBERS) | {"jpe", "jfif", "bmp", "dib", "gif", "ppm", "pgm", "pnm", "jp2"}
