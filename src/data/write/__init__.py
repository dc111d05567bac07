"""`python -m data.write`: make, index, verify, describe and compare shard sets.

__main__      the command line                         commands      what each of them does
writer        a source -> a shard set
plan          which image goes where, decided first    destination   the directory: new, or interrupted
workers       images encoded by several processes      part          one shard, whole or not at all
index         other people's tars made addressable     pack          a folder, packed once into a cache
duplicates    equal files, inside a set and between    survey        verify, describe, draw
targets       checked, and shrunk with their images    left_out      files not in the set, how many there may be
"""
