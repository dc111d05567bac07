"""pretrain: unlabelled images become an encoder folder.

__main__      the command                 config           its settings
run           the parts of a run          module           SimMIM under Lightning
simmim        the method, as in the paper masking          which squares are hidden
prepare       a batch -> what a step needs                 reconstructions  pictures of what it learns
"""
