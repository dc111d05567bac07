"""Which sample comes when: pure functions of integers, numpy only.

epoch         (seed, epoch, step) -> samples         mixture       several sets, each at its own pace
hashing       random numbers without a state         subsets       held-out part, a few labels of each class
"""
