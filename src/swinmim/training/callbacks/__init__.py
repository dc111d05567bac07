"""What happens beside the steps, one concern a file.

averaging         an average of the weights, for validation and the encoder folder
checkpoint        when to save, what to keep, which is the best
compilation       says how many graphs were compiled, in what time
last_validation   the last weights are validated before they are saved
progress          the bar
randomness        the seed of every micro-batch
throughput        images per second, waiting for data, memory
validations       a line for each, and which was the best
"""
