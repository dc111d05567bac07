"""finetune: an encoder folder and labelled images become a task model.

__main__     the command                    config    its settings; `task` is told apart by `kind`
run          the parts of a run             task      what a task is
frozen       what a task is that trains nothing
measure      the run of such a task
module       a task under Lightning         model     encoder and head of a task
pictures     image, truth and prediction, drawn at validations
worst        the images that are answered worst          hard_examples    of the last validation
drawing/     pictures of what a task model says
tasks/       the tasks, one file each, and their registry      heads/    what single ones bring beside it
evaluate, predict, embed    commands that apply one; apply/ is what they do
"""
