"""What a frozen encoder knows: tensors in, numbers out; no trainer and no logger.

features    maps and vectors of every image, from chosen stages
heads       many heads over the same features in one pass, each with a rate of its own
linear      the linear probe      attentive   the attentive probe
knn         weighted nearest neighbours
"""
