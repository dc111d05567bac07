"""A trained task model, or an encoder, applied to images: what the commands evaluate, predict and embed do.

config        their settings            trained       a task model opened from its folder
evaluation    of labelled images        prediction    answers about images      embedding    features of images
files         images as they lie -> batches           results      answers -> tables, masks, COCO, overlays
predictor     the same from Python: `swinmim.load_model`, `swinmim.preprocess`
exported      a task model as a network of tensors, for ONNX and torch.export
"""
