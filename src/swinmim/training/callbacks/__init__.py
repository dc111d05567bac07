"""One concern each.

checkpoint        when to save, what to keep       last_validation   of the weights that are saved last
progress          the bar                          throughput        perf/
randomness        every draw follows from (seed, step, rank)
"""
