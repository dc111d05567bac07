"""AdamW and its schedule.

build         both from their settings      settings  of AdamW
param_groups  decay and rate of each parameter, by name
schedules     rate as a pure function of the step
"""
