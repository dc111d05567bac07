"""Bytes to pixels and back, numpy only. Everything here meets files of strangers: bounded, strict, one error.

decode        any image -> uint8 or uint16, (H, W, C)     encode        an image of a source -> what a shard holds
jpeg, png, webp, tiff, bands    one format each           deep          16 bits through Pillow
orientation   EXIF turns                                  parsers       keeps in what other parsers do
statistics    mean and deviation, summed exactly          targets       what lies beside an image
formats       endings of names
"""
