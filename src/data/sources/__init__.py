"""What a shard set can be written from: a sorted listing, and the bytes of each item.

source        what a source is                         find          which one a name means
folder        a tree of images                         listing       CSV, TSV, JSON lines, parquet
tars          ImageNet's tars and WebDataset shards    hub           a Hugging Face dataset
digits        the built-in set                         labels        labels as people write them -> numbers
keys          what belongs together in a tar           tar_targets   targets that lie in tars
masks         label masks among images, noticed        annotated/    targets in files of their own
columns       columns of numbers -> values
"""
