"""A log with propensities > the value of another policy: estimators, intervals, the choice among them, and their warnings."""
