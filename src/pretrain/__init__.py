"""`python -m pretrain`: from unlabelled images to an encoder folder.

config __main__         settings, and the door
run                     the parts of a run, which `swinmim.training.execute` puts in order
simmim masking          the method and its masks, plain torch
prepare                 from uint8 images to normalised ones, mask and target, on the device
module                  connects both to Lightning
reconstructions         fixed images under fixed masks, drawn while the model learns
"""
