"""The frozen teacher: several as one, folded, remembered."""
