"""How the work is spread over devices.

build         settings -> a strategy               zero          DeepSpeed
"""
