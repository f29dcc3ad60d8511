"""foretell: prefill activation routing."""
