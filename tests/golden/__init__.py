"""Golden values: what networks and estimators compute, stored once and compared with every later commit."""
