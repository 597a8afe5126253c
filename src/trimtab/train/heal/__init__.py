"""Training back what compression took: weights that see their grid, a teacher, and which weights may go or must stay."""
