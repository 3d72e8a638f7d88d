"""What makes sparse models really smaller or faster: compaction, dispatch, measurement."""
