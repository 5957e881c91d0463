"""Results in the forms that others read: one form a file, each a function from results to named bytes."""
