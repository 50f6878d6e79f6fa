"""Packaged settings: YAML files holding only what differs from the defaults in `vertinst.config`."""
