"""finetune: an encoder folder and labelled images become a task model.

__main__     the command                    config    its settings; `task` is told apart by `kind`
run          the parts of a run             task      what a task is
module       a task under Lightning         model     encoder and head of a task
pictures     image, truth and prediction, drawn at validations
tasks/       the tasks, one file each, and their registry
"""
