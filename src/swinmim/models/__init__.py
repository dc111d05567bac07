"""The network, plain torch: no settings, no logging, no rank. Imports nothing of ours.

swinv2        the encoder                              architecture        sizes of the family
attention     window attention, and its cores          chunked_attention   one that keeps no N x N tensor
position_bias continuous relative position bias        windows             which windows, and cutting into them
recompute     what is computed again in the backward   init                initial weights
errors        what cannot be, and the nearest word     compiled      code of its own for each shape of block
choices       words that choose among ways to compute
"""
