"""Sets of samples as they lie in tars: found, checked, read. Knows file formats, no pixels and no order of training.

archive     tars written the same every time, and listed so that no damage passes unseen
manifest    manifest.json: its fields and their rules, read and written
rows        the index file of a shard: where each image and its target lie
set         what the rest of the program asks of any set (protocols), and Record
local       ShardSet: a set on a disk
remote      files on https, s3, gs, hf; when to try again
lock        the lock that processes of a node share
cache       RemoteShardSet: a set on a server, through a cache of whole shards
mixed       MixedSet: several sets as one
tar_stream  samples of tars without an index, from front to back
streamed    StreamSet: such tars as a set
"""
