"""From a matrix file to results: configuration, plan, data, one trial, measurement, executors."""
