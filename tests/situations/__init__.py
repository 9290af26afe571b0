"""One file for each situation that breaks packages which hook modules."""
