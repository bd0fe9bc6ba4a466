"""A tour of fabremote against throwaway SSH servers: ``python -m fabremote.demo``."""
