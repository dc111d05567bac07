"""What answers when something goes wrong.

signals     SIGTERM, SIGHUP, SIGUSR1: all ranks stop at the same step, with everything saved
emergency   an exception in a run of one process: its last whole step is saved
stability   non-finite steps are not taken, spikes passed by
border      how ranks agree at the border of a step without waiting for each other
heartbeat   says what this rank is doing to
watch       the thread that ends all ranks, by name, when one is gone, silent or stuck
"""
