"""One trial: trained, evaluated, measured."""
