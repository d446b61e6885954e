"""The store: column names and units, atomic Parquet parts, and the ledger that resume reads."""
