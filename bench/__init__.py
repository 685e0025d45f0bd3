"""What jetrunner costs, as ratios to a bare loop that does the same work in the same run."""
