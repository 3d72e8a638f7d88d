"""Many trials: who runs which, in which process."""
