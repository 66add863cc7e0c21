"""Where images come from, for data preparation and prediction alike (folders, Parquet, tars, arrays), and how they are decoded.
No torch."""
