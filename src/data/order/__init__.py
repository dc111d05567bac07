"""Which sample comes when, as pure functions of integers; numpy only.

hashing  random numbers, shuffles and seeds of samples from a key and a counter
epoch    EpochOrder and EpochOrders: the order of one set; the slice of a rank
mixture  MixedOrder: of several sets, each going round at its own pace
subsets  which samples take part: a held-out split, a few labels of each class
"""
