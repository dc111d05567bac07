"""What single tasks bring beside their file, imported where it is used: it knows torch and their libraries.

clips     opened clips, views of their frames, a head over time
"""
