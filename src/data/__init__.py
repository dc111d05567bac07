"""data: from a pile of images to batches. Each room imports only what stands below it here.

open          whatever `data.path` names -> open sets and loaders
write/        make, index, verify and describe shard sets: `python -m data.write`
loading/      a set and an order -> batches of tensors; the only room with torch
sources/      what may be written: folders, lists, tars, datasets
shards/       sets of samples by number: on disk, on a server, mixed, streamed
order/        which sample comes when: integers only
codecs/       bytes <-> pixels: image formats, on hostile files too
config        settings of the data             processes     how loader processes start and end
"""
