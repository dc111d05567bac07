"""Pictures of what a task model says.

tiles         images as they can be shown, fitted, on a sheet with words under them
answers       truth and answer of some images          confusion     a confusion matrix
"""
