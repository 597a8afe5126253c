"""Work on other machines: what a unit of it is, who does it, where its results land."""
