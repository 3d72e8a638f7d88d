"""What makes sparse models really smaller or faster: compaction, kernels by what runs them, dispatch, measurement."""
