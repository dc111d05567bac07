"""What ends a run other than its end, and what is left then. See docs/faults.md.

signals       SIGTERM, SIGUSR1                     emergency     exceptions
stability     non-finite steps, loss spikes        border        what ranks agree on between two steps
watch         processes that watch each other      heartbeat     what this rank tells the watch
"""
