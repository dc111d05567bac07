"""Encoder folders and the checkpoints of runs.

encoder       the encoder folder: save, load, describe     manifest      its manifest.json
timm_config   timm's description of it                     coverage      how much of a model tensors cover
foreign       weights of others, read as a folder of ours  names         their parameter names
convert       weights of others -> an encoder folder
task_model    the head of any task beside the encoder      zero          DeepSpeed's directories
io            step_* directories, complete or not there    digest        hashed while written
"""
