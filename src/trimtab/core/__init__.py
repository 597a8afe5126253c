"""Nouns of the house: frozen dataclasses that every room shares. Standard library only, imports no other room."""
