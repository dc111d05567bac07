"""One run, from settings to weights. `execute` is the order of events; all else has one place in it.

settings callback_settings   what a run can be told; imports no Lightning
execute                      the order of events, and the `Parts` that pretrain and finetune hand over
run_lock                     one run per directory
launch trainer               is this the world that was asked for, does it fit, and Lightning's trainer
module finite                the step: loss, clipping, whether to take it; what goes into an encoder folder
fit drift                    where a run starts, what may have changed since, training itself
state_io replay wandb        trainer state on the disk, the step that ended a run, Weights & Biases
strategies                   one process, DDP, DeepSpeed: they answer, nobody asks what kind they are
callbacks faults             what happens beside the steps, and what answers when something goes wrong
"""
