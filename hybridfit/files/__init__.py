"""Files that users name, opened with bounds: regular ones only, and no more than they may hold."""
