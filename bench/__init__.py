"""What the service costs and holds, measured as ratios against named baselines in the same run."""
