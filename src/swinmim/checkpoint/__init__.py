"""Encoder folders and the checkpoints of runs.

encoder       the encoder folder: save, load, describe     manifest      its manifest.json
timm_config   timm's description of it                     coverage      how much of a model tensors cover
convert       weights of others -> an encoder folder       names         their parameter names
io            step_* directories, complete or not there    stream        hashed while written
zero          DeepSpeed's directories
"""
