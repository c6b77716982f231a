"""Data of benchmarks: real data sets by their usual layouts, and any registered source; begin at `.build`."""
