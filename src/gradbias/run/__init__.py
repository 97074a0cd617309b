"""Jobs, records, the store, reports."""
