"""Sets of samples: plain WebDataset tars, an index beside each, one manifest. Read by number, or streamed.

set           what a set is asked                      local         on a disk
mixed         several as one                           cache         on a server, through a cache of whole shards
streamed      tars without an index, as a set          tar_stream    their samples, from front to back
manifest      what it must hold                        rows          the index file
archive       tars, written and listed                 remote        files on https, s3, gs and hf; tries again
lock          what processes of a node share
"""
