"""From results to people: statistics, tables, the leaderboard page."""
