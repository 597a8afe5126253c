"""Files that others run a release with: one file here a format, each a pure function(Serving) -> files.

What a format cannot express, and what was not measured, is said in a comment of the file; no number is made up.
"""
