"""The tasks of fine-tuning: one file here, one or more in conf/task/, one test. See `finetune.task`.

registry      kind -> task
pooled        what tasks share that give one answer for a whole image
pixels        what tasks need that answer for each pixel
decoders      over all maps of the encoder
classify      one class per image              multilabel    any number of labels per image
detect        boxes and masks of objects       rcnn          its head
objects       judging and drawing them
segment       a class for each pixel
probe         heads on a frozen encoder        knn           its nearest neighbours (both: `finetune.frozen`)
regress       numbers for each image          video         one class per clip
"""
