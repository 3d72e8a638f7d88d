"""From a matrix file to a plan of trials."""
