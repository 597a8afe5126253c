"""The page where a team sees it all: what serves, what was decided, what it did to people."""
