"""Records of trials and the table of them: torch-free."""
