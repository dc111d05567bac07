"""Ways out: an encoder or a task model in the formats of other libraries, each in a new folder with a model card.

command       one export, from the words of its command to its last line
timm_folder   timm's local-dir           huggingface   Swinv2Model, ...ForMaskedImageModeling, ...ForImageClassification
graph         ONNX, torch.export         parity        how far what was written differs from what it was written from
folder        whole or not there         simmim        where a run keeps its mask token and decoder
card          README.md of the folder          settings      of the command, read without torch
"""
