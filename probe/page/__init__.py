"""The report: one page that says what tables say."""
