"""One run of Lightning, the same for both commands.

fit           where it starts, what it leaves      trainer       settings -> a trainer
module        what training modules share          state_io      trainer state to and from a file
settings, callback_settings                        drift         settings that a resumed run changed
launch        processes against the settings       wandb         the logger of that name
finite        is a step worth taking? (maths)      replay        a failed step, to run again
strategies/   one process, DDP, ZeRO               callbacks/    one concern each
faults/       signals, dead ranks, bad steps
"""
