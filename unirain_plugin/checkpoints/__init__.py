"""Files of weights and training states: read, checked and written whole."""
