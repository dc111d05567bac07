"""How the work is spread over devices. Every strategy gives the `Answers` of base.

base    what modules and faults ask; one process and DDP
zero    DeepSpeed ZeRO, the only file beside checkpoint/zero that imports it
build   from settings to one of them
"""
