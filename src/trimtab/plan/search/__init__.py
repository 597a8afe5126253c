"""Layouts and deployments that meet what is asked: all of them are looked at, the best are named, and why the others lose."""
