"""The suites of `matl-benchmark`, a module each: ratios measured side by side in one run."""
