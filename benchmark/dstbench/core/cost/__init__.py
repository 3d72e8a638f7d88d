"""What a network and its training cost, in theory."""
