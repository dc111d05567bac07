"""The tasks of fine-tuning: one file here, one or more in conf/task/, one test. See `finetune.task`.

registry      kind -> task
pooled        what tasks share that give one answer for a whole image
classify      one class per image              multilabel    any number of labels per image
probe         heads on a frozen encoder        knn           its nearest neighbours (both: `finetune.frozen`)
"""
