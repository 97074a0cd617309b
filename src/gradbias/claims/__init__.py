"""One file per claim, in the folder of its family."""
