"""What each command of ``dni`` does."""
