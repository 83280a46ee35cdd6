"""What several objectives share. A part imports parts, never an objective's file."""
