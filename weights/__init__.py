"""Small weights shipped with vertinst, and what else can be loaded."""
