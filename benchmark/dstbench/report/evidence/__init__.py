"""Which choices matter, and which methods differ: statistics over repetitions, in numbers, words and drawings."""
